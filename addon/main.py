"""For mitmproxy's own programs: `mitmdump -s addon/main.py`. Settings come from PULLTHROUGH_* (see the README)."""

from pullthrough import wiring

addons = wiring.from_environment()

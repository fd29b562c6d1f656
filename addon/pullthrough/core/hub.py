"""Docker Hub, the one registry that images, clients and logins each call by another name.

Facts only, from docker's reference grammar (distribution/reference, normalize.go) and its login (docker/cli,
registry.IndexServer).
"""

from typing import Final

from pullthrough.core.registries import Entry

#: The host that serves it.
REGISTRY: Final = Entry("registry-1.docker.io")
#: All its names: in image references, in old references and logins, and as it is asked.
NAMES: Final = ("docker.io", "index.docker.io", REGISTRY.host)
#: What comes before a name of one component: `alpine` is `library/alpine`.
OFFICIAL: Final = "library"
#: Its key in docker's config.json, and its name towards credential helpers.
LOGIN: Final = "https://index.docker.io/v1/"


def is_hub(entry: Entry) -> bool:
    """Whether this is one of Docker Hub's names, on the port that it has."""
    return entry.host in NAMES and entry.port == REGISTRY.port

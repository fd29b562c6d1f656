"""Pure decisions: values in, values out.

Modules here use the standard library only. They read no clock, open nothing, log nothing and know nothing
of mitmproxy; whoever calls them brings the facts and carries out the answer.
"""

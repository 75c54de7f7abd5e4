"""Serving engines: what toolhone asks of a running one, and how it starts one."""

"""Serving engines that toolhone starts or talks to."""

"""One module a noun or verb: parse, call, show.  They never import each other."""

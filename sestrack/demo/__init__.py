"""The main job on one's own machine, shown with the real program: `sestrack demo`.

| module | what it is |
|---|---|
| `acts` | the steps, and the sentences between them |
| `stage` | a folder of its own, the commands run in it, and their end, whatever happens |
| `nameserver` | a small name server, in place of the administrator's |
| `visit` | a reader's mail program, and a scanner |
| `page` | the newsletter and the figures in a browser, for `--keep` |
"""

"""What a person meets at a terminal: help, Tab, tables, characters, the manual page."""

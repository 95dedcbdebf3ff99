"""Reading HTML as bytes: where the links are.  Knows nothing of tracking."""

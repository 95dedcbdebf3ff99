"""What DNS says of sender domains and trace domains."""

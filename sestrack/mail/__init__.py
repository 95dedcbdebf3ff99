"""Whole messages, mailboxes and campaigns."""

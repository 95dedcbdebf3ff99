"""The tracking server: answers, records, judges and counts opens and clicks."""

"""What a command leaves behind and shows: files, summaries, progress."""

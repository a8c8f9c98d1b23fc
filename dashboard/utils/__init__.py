"""Where the pages get their rows from, and what they have in common."""

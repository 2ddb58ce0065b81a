"""What a compiled pass runs on: threads, kept machine code, memory."""

"""What fleet members say to each other: topics, messages, codec, signatures."""

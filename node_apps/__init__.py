"""What runs inside a node: source, GenAI router and sink, and the decoder service they share."""

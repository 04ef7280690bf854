"""What a generation is judged by."""

"""From a fitted model to rows on disk."""

"""Views over another checkpoint: another layout, another vocabulary, an adapter added, parts joined."""

"""What a search or an ablation leaves behind: the held-out comparison, tables, pages."""

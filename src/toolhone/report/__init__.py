"""Everything that a person reads: pages, plots, tables and their templates."""

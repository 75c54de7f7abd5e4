"""How others write conversations: a module a family, with `looks_like(row)` and `read(row, where, default_tools)`."""

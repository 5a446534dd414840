"""automerge: the search engine for merged language models."""

"""Thread pool, object cache, buffer pool."""

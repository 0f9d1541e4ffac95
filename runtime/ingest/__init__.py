"""Taking documents in: read, embed, and only then swap into the database, document by document."""

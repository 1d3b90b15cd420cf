"""From records to rows: in groups of one table and one set of columns, and the SQL that writes them."""

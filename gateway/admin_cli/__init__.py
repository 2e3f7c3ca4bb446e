"""`tollgate` commands over the admin API: a table of operations, one way to make commands of it."""

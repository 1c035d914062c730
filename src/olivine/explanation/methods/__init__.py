"""Methods that score an answer's image tokens: one file each, one signature; `registry` lists them."""

"""Things that answer; one file each, loaded only when used."""

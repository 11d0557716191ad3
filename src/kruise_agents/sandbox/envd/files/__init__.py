"""Files over HTTP: upload, download and compose."""

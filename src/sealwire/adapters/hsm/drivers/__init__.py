"""The only modules that load a PKCS#11 library."""

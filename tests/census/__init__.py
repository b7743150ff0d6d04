"""The census: models of real libraries, tiny and with random weights, as they save them, each
against how its file is read."""

"""Makes what leaves toolhone: folders and files of a tuned model that serving engines load as they are."""

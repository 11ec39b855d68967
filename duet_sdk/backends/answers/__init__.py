"""What servers send as answers, read whatever their spelling; nothing here opens a connection."""

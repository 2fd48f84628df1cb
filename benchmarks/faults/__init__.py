"""What a run does where something breaks: processes, disks, files, devices, images."""

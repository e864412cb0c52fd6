"""Real machines: hbtrio guest in QEMU behind a virtio-serial port, hbtrio host outside."""

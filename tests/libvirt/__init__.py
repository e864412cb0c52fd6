"""Tests with a real libvirtd, of their own, and real QEMU processes."""

# Only what the tests of the I/O path need: machines with PCI, virtio-blk and
# virtio-scsi. For builds with the thread sanitizer, of which nothing else is
# run.
#
# SPDX-License-Identifier: GPL-2.0-or-later
CONFIG_I440FX=y
CONFIG_Q35=y
CONFIG_VIRTIO_PCI=y
CONFIG_VIRTIO_BLK=y
CONFIG_VIRTIO_SCSI=y
CONFIG_VHOST_USER_BLK=y
# ACPI of these machines does not link without it
CONFIG_PCIE_PORT=y
CONFIG_PXB=y
CONFIG_CXL=y
CONFIG_CXL_MEM_DEVICE=y

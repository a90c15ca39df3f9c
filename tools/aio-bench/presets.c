/*
 * Prepared sets of cells
 *
 * "embedded" is what the main job runs, "tap" what QEMU's speed suite runs.
 * The others measure the cells of five public studies of QEMU's I/O options,
 * so that the same comparison can be drawn on any device; how long each cell
 * is measured is up to --time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "options.h"

static const Matrix embedded[] = {
    { .rw = "randread", .aio = "threads,native,io_uring", .iothreads = "1",
      .depth = "1,8,64", .bs = "4k" },
    { .rw = "randread", .iothreads = "0,2", .depth = "1,64", .bs = "4k",
      .kinds = "null" },
    { .rw = "randread", .aio = "native,io_uring", .iothreads = "0,2",
      .depth = "64", .bs = "4k", .kinds = "loop" },
    { 0 }
};

static const Matrix tap[] = {
    { .rw = "randread", .aio = "threads,native,io_uring", .iothreads = "1",
      .depth = "1,64", .bs = "4k", .model = "virtio-blk-pci,virtio-scsi-pci" },
    { 0 }
};

static const Matrix verify[] = {
    { .rw = "randrw,write", .aio = "threads,native,io_uring",
      .iothreads = "0,1,2", .depth = "1,32", .bs = "4k,64k",
      .model = "virtio-blk-pci,virtio-scsi-pci" },
    { 0 }
};

static const Matrix blockbridge[] = {
    { .rw = "randread", .aio = "native,io_uring", .iothreads = "0,1",
      .depth = "1,2,4,8,16,32,64,128",
      .bs = "512,4k,8k,16k,32k,64k,128k" },
    { 0 }
};

static const Matrix storpool[] = {
    /* latency and most IOPS: four configurations, two device models */
    { .rw = "randread,randwrite", .aio = "threads,native", .iothreads = "0",
      .depth = "1,64", .bs = "4k", .model = "virtio-blk-pci,virtio-scsi-pci" },
    { .rw = "randread,randwrite", .aio = "native,io_uring", .iothreads = "1",
      .depth = "1,64", .bs = "4k", .model = "virtio-blk-pci,virtio-scsi-pci" },
    /* throughput */
    { .rw = "read,write", .aio = "threads,native", .iothreads = "0",
      .depth = "16", .bs = "16m" },
    { .rw = "read,write", .aio = "native,io_uring", .iothreads = "1",
      .depth = "16", .bs = "16m" },
    /* scaling over IOThreads */
    { .rw = "randread,randwrite", .aio = "native,io_uring",
      .iothreads = "1,2,4,8", .depth = "64", .bs = "4k" },
    /* latency over the load that is offered */
    { .rw = "randread,randwrite", .aio = "native,io_uring", .iothreads = "1",
      .depth = "64", .bs = "4k", .rate = "1000,5000,10000,20000,40000,80000",
      .driver = "spin" },
    { 0 }
};

static const Matrix xiraid[] = {
    { .rw = "randread", .aio = "native,io_uring", .iothreads = "1,2,4,8",
      .queues = "16", .depth = "128", .bs = "4k" },
    { .rw = "randwrite", .aio = "native,io_uring", .iothreads = "1,2,4,8",
      .queues = "32", .depth = "32", .bs = "4k" },
    { .rw = "read,write", .aio = "native,io_uring", .iothreads = "1,2,4,8",
      .queues = "8", .depth = "32", .bs = "1m" },
    { .rw = "randread", .aio = "native,io_uring", .iothreads = "1",
      .depth = "128", .bs = "4k", .vms = "1,2,4,8" },
    { 0 }
};

static const Matrix lc3[] = {
    { .rw = "randread", .aio = "native,threads", .iothreads = "0,1",
      .depth = "1,16", .bs = "4k", .model = "virtio-blk-pci,virtio-scsi-pci" },
    { 0 }
};

static const Matrix homelab[] = {
    { .rw = "randwrite", .model = "virtio-scsi-pci", .iothreads = "1",
      .queues = "1", .depth = "1", .bs = "4k,1m" },
    { .rw = "randwrite", .model = "virtio-scsi-pci", .iothreads = "1",
      .queues = "16", .depth = "16", .bs = "64k" },
    { 0 }
};

const Preset presets[] = {
    { "embedded", "the main job's: aio modes over depth, IOThreads",
      embedded, false },
    { "tap", "small: each aio mode and device model at depth 1 and 64", tap,
      false },
    { "verify", "each aio mode and device model with verification "
      "(writes!)", verify, true },
    { "blockbridge", "block size by depth, native and io_uring, with and "
      "without an IOThread (give --vms 32 for its 32 VMs)", blockbridge,
      false },
    { "storpool", "latency, IOPS, throughput, 1 to 8 IOThreads, rates "
      "(writes!)", storpool, false },
    { "xiraid", "many queues over 1 to 8 IOThreads, 1 to 8 VMs (writes!)",
      xiraid, false },
    { "lc3", "depth 1 and 16: virtio-blk and -scsi, IOThread or not, native "
      "and threads", lc3, false },
    { "homelab", "random writes of 4k, 64k and 1m over virtio-scsi "
      "(writes!)", homelab, false },
    { NULL, NULL, NULL, false }
};

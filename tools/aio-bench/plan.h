/*
 * From the options to what is run: cells, grouped in blocks
 *
 * A cell is one point of the matrix. Cells that the same QEMU command line
 * can serve make a block: a repetition of a block starts one fresh process of
 * each QEMU and visits its cells in random order, the QEMUs taking turns
 * within each cell.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_PLAN_H
#define AIO_BENCH_PLAN_H

#include "device.h"
#include "options.h"

typedef struct Cell {
    unsigned id;
    char *name;                 /* unique; the same in every run */
    char *short_name;           /* TAP: only what varies in this run */
    unsigned block;
    const DeviceInfo *device;
    VirtioModel model;
    AioMode aio;
    unsigned iothreads;
    unsigned queues;
    unsigned depth;
    unsigned bs;
    LoadRw rw;
    LoadDriver driver;
    double rate;
    double think_us;
    unsigned vms;
} Cell;

typedef struct Block {
    const Cell *first;          /* what its cells have in common */
    GPtrArray *cells;           /* Cell, not owned */
    unsigned max_depth;
    unsigned max_bs;
    bool writes;
    bool irq;
} Block;

typedef struct Plan {
    GPtrArray *devices;         /* DeviceInfo */
    GPtrArray *cells;           /* Cell */
    GPtrArray *blocks;          /* Block */
    bool writes;
} Plan;

/*
 * Probe the devices and lay out the cells; every value is checked here, so
 * that nothing is refused halfway through a run.
 */
Plan *plan_new(const Options *o, GError **errp);
void plan_free(Plan *plan);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Plan, plan_free)

/* Bytes of the cell's device that are used. */
uint64_t plan_span(const Options *o, const Cell *c);

#endif

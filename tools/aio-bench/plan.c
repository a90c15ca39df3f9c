/*
 * From the options to what is run: cells, grouped in blocks
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <math.h>
#include <string.h>

#include "plan.h"

#define NULL_DEVICE_BYTES (1ull << 30)
/* A verifying run fills and reads back all it uses. */
#define VERIFY_SPAN_BYTES (64ull << 20)
#define SPIN_MAX_DEPTH 8
#define MAX_BS (64u << 20)

static const Matrix default_matrix[] = {
    { .rw = "randread" },
    { 0 }
};

/* One dimension of a matrix, parsed. */
typedef struct Dim {
    double v[64];
    unsigned n;
} Dim;

#define DIM_AUTO (-1)

typedef enum DimType {
    DIM_NUMBER,
    DIM_SIZE,
    DIM_CHOICE,
} DimType;

typedef struct DimRule {
    const char *option;
    const char *fallback;
    DimType type;
    double min, max;
    const char *const *names;
    bool may_be_auto;
} DimRule;

/* as the options know them: "none" is not for choosing */
static const char *const aio_choices[] = {
    "threads", "native", "io_uring", "auto", NULL
};

static const char *const model_choices[] = {
    "virtio-blk-pci", "virtio-scsi-pci", NULL
};

static bool parse_element(const DimRule *rule, const char *text, double *v,
                          GError **errp)
{
    uint64_t size;
    int i;

    if (rule->may_be_auto && !strcmp(text, "auto")) {
        *v = DIM_AUTO;
        return true;
    }
    switch (rule->type) {
    case DIM_SIZE:
        if (!parse_size(rule->option, text, &size, errp)) {
            return false;
        }
        *v = size;
        return true;
    case DIM_CHOICE:
        if (!parse_choice(rule->option, text, rule->names, &i, errp)) {
            return false;
        }
        *v = i;
        return true;
    default:
        return parse_number(rule->option, text, rule->min, rule->max, v, errp);
    }
}

static bool parse_dim(const DimRule *rule, const char *text, Dim *d,
                      GError **errp)
{
    g_auto(GStrv) parts = g_strsplit(text ? text : rule->fallback, ",", -1);

    d->n = 0;
    for (char **p = parts; *p; p++) {
        if (d->n == G_N_ELEMENTS(d->v)) {
            g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                        "%s: more than %u values", rule->option,
                        (unsigned)G_N_ELEMENTS(d->v));
            return false;
        }
        if (!parse_element(rule, g_strstrip(*p), &d->v[d->n], errp)) {
            return false;
        }
        if (rule->type == DIM_NUMBER && d->v[d->n] != DIM_AUTO &&
            d->v[d->n] != floor(d->v[d->n])) {
            g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                        "%s: '%s' is not a whole number", rule->option, *p);
            return false;
        }
        d->n++;
    }
    if (!d->n) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                    "%s: an empty list", rule->option);
        return false;
    }
    return true;
}

enum {
    D_MODEL, D_AIO, D_IOTHREADS, D_QUEUES, D_DEPTH, D_BS, D_RW, D_DRIVER,
    D_RATE, D_THINK, D_VMS, D__MAX
};

static const DimRule rules[D__MAX] = {
    [D_MODEL] = { .option = "--model", .fallback = "virtio-blk-pci",
                  .type = DIM_CHOICE, .names = model_choices },
    [D_AIO] = { .option = "--aio", .fallback = "threads,native,io_uring",
                .type = DIM_CHOICE, .names = aio_choices },
    [D_IOTHREADS] = { .option = "--iothreads", .fallback = "1", .max = 256 },
    [D_QUEUES] = { .option = "--queues", .fallback = "auto",
                   .min = 1, .max = 256, .may_be_auto = true },
    [D_DEPTH] = { .option = "--depth", .fallback = "1,8,64",
                  .min = 1, .max = VIRTIO_QUEUE_SIZE_MAX },
    [D_BS] = { .option = "--bs", .fallback = "4k", .type = DIM_SIZE },
    [D_RW] = { .option = "--rw", .fallback = "randread",
               .type = DIM_CHOICE, .names = load_rw_names },
    [D_DRIVER] = { .option = "--driver", .fallback = "auto",
                   .type = DIM_CHOICE, .names = load_driver_names,
                   .may_be_auto = true },
    [D_RATE] = { .option = "--rate", .fallback = "0", .max = 1e9 },
    [D_THINK] = { .option = "--think", .fallback = "0", .max = 1e9 },
    [D_VMS] = { .option = "--vms", .fallback = "1", .min = 1, .max = 256 },
};

static bool check_cell(const Options *o, const Cell *c, GError **errp)
{
    const DeviceInfo *d = c->device;
    uint64_t span = plan_span(o, c);
    g_autofree char *bs = size_to_string(c->bs);

    if (c->bs % SECTOR_SIZE || c->bs > MAX_BS || c->bs % d->block_size) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                    "--bs: %s is not a multiple of %u up to 64m, as '%s' "
                    "needs", bs, d->block_size, d->label);
        return false;
    }
    if (o->span > d->size) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                    "--span: '%s' has only %" G_GUINT64_FORMAT " bytes",
                    d->label, d->size);
        return false;
    }
    /* each queue must find a block that is not in flight */
    if (span / c->bs / c->queues < 2 * c->depth) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                    "'%s' is too small: %" G_GUINT64_FORMAT " bytes are used, "
                    "%u queues of depth %u with blocks of %s need %"
                    G_GUINT64_FORMAT, d->label, span, c->queues, c->depth, bs,
                    (uint64_t)2 * c->queues * c->depth * c->bs);
        return false;
    }
    if (!virtio_dev_ram_bytes(c->queues, virtio_queue_size(c->depth),
                              c->depth, c->bs)) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                    "%u queues of depth %u with blocks of %s do not fit the "
                    "3 GiB of guest memory that there can be", c->queues,
                    c->depth, bs);
        return false;
    }
    if (o->export && c->iothreads > 1) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                    "--iothreads: an export has one at most, not %u",
                    c->iothreads);
        return false;
    }
    if (o->verify && c->vms > 1) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                    "--verify needs --vms 1, not %u: each VM would overwrite "
                    "the others' data", c->vms);
        return false;
    }
    if (c->rate && c->think_us) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                    "--rate and --think exclude each other");
        return false;
    }
    return true;
}

uint64_t plan_span(const Options *o, const Cell *c)
{
    uint64_t span = c->device->size;

    if (o->span) {
        return o->span;
    }
    return o->verify ? MIN(span, VERIFY_SPAN_BYTES) : span;
}

static char *cell_name(const Cell *c)
{
    g_autofree char *bs = size_to_string(c->bs);
    GString *s = g_string_new(NULL);

    g_string_printf(s, "%s/%s/%s/iot%u/q%u/%s/%s/qd%u/%s", c->device->label,
                    c->model == MODEL_BLK ? "blk" :
                    c->model == MODEL_SCSI ? "scsi" : "vhost-user-blk",
                    aio_names[c->aio],
                    c->iothreads, c->queues, load_rw_names[c->rw], bs,
                    c->depth, load_driver_names[c->driver]);
    if (c->rate) {
        g_string_append_printf(s, "/rate%g", c->rate);
    }
    if (c->think_us) {
        g_string_append_printf(s, "/think%g", c->think_us);
    }
    if (c->vms > 1) {
        g_string_append_printf(s, "/vms%u", c->vms);
    }
    return g_string_free(s, false);
}

static void cell_free(void *opaque)
{
    Cell *c = opaque;

    g_free(c->name);
    g_free(c->short_name);
    g_free(c);
}

static void block_free(void *opaque)
{
    Block *b = opaque;

    g_ptr_array_unref(b->cells);
    g_free(b);
}

static bool kind_wanted(const Matrix *m, const DeviceInfo *d)
{
    g_auto(GStrv) kinds = NULL;

    if (!m->kinds) {
        return true;
    }
    kinds = g_strsplit(m->kinds, ",", -1);
    return g_strv_contains((const char *const *)kinds,
                           device_kind_name(d->kind));
}

/* The cell at position @at of the matrix's dimensions. */
static Cell *make_cell(const Options *o, const DeviceInfo *device,
                       const Dim *dims, const unsigned *at)
{
    Cell *c = g_new0(Cell, 1);
    double driver = dims[D_DRIVER].v[at[D_DRIVER]];
    double queues = dims[D_QUEUES].v[at[D_QUEUES]];

    c->device = device;
    c->model = o->export ? MODEL_EXPORT :
               (VirtioModel)dims[D_MODEL].v[at[D_MODEL]];
    c->aio = device->kind == DEVICE_NULL ? AIO_NONE :
             (AioMode)dims[D_AIO].v[at[D_AIO]];
    c->iothreads = dims[D_IOTHREADS].v[at[D_IOTHREADS]];
    c->queues = queues == DIM_AUTO ? MAX(1, c->iothreads) : queues;
    c->depth = dims[D_DEPTH].v[at[D_DEPTH]];
    c->bs = MIN(dims[D_BS].v[at[D_BS]], (double)UINT32_MAX);
    c->rw = dims[D_RW].v[at[D_RW]];
    c->driver = driver != DIM_AUTO ? (LoadDriver)driver :
                c->depth <= SPIN_MAX_DEPTH ? DRIVER_SPIN : DRIVER_SLEEP;
    c->rate = dims[D_RATE].v[at[D_RATE]];
    c->think_us = dims[D_THINK].v[at[D_THINK]];
    c->vms = dims[D_VMS].v[at[D_VMS]];
    c->name = cell_name(c);
    return c;
}

static bool next_position(const Dim *dims, unsigned *at)
{
    for (int d = D__MAX - 1; d >= 0; d--) {
        if (++at[d] < dims[d].n) {
            return true;
        }
        at[d] = 0;
    }
    return false;
}

static bool add_matrix(const Options *o, Plan *plan, GHashTable *seen,
                       const Matrix *m, GError **errp)
{
    const Matrix *own = &o->dims;
    const char *text[D__MAX] = {
        [D_MODEL] = own->model ? own->model : m->model,
        [D_AIO] = own->aio ? own->aio : m->aio,
        [D_IOTHREADS] = own->iothreads ? own->iothreads : m->iothreads,
        [D_QUEUES] = own->queues ? own->queues : m->queues,
        [D_DEPTH] = own->depth ? own->depth : m->depth,
        [D_BS] = own->bs ? own->bs : m->bs,
        [D_RW] = own->rw ? own->rw : m->rw,
        [D_DRIVER] = own->driver ? own->driver : m->driver,
        [D_RATE] = own->rate ? own->rate : m->rate,
        [D_THINK] = own->think ? own->think : m->think,
        [D_VMS] = own->vms ? own->vms : m->vms,
    };
    g_autofree Dim *dims = g_new(Dim, D__MAX);

    for (unsigned d = 0; d < D__MAX; d++) {
        if (!parse_dim(&rules[d], text[d], &dims[d], errp)) {
            return false;
        }
    }
    for (unsigned i = 0; i < plan->devices->len; i++) {
        const DeviceInfo *device = g_ptr_array_index(plan->devices, i);
        unsigned at[D__MAX] = { 0 };

        if (!kind_wanted(m, device)) {
            continue;
        }
        do {
            Cell *c = make_cell(o, device, dims, at);

            /* the same cell of another matrix, or another aio of null-co */
            if (g_hash_table_contains(seen, c->name)) {
                cell_free(c);
                continue;
            }
            g_hash_table_add(seen, c->name);
            c->id = plan->cells->len;
            g_ptr_array_add(plan->cells, c);
            plan->writes |= load_rw_writes(c->rw);
            if (!check_cell(o, c, errp)) {
                return false;
            }
        } while (next_position(dims, at));
    }
    return true;
}

static bool same_process(const Cell *a, const Cell *b)
{
    return a->device == b->device && a->model == b->model &&
           a->aio == b->aio && a->iothreads == b->iothreads &&
           a->queues == b->queues && a->vms == b->vms &&
           (a->driver == DRIVER_IRQ) == (b->driver == DRIVER_IRQ);
}

static bool check_blocks(const Plan *plan, GError **errp)
{
    for (unsigned i = 0; i < plan->blocks->len; i++) {
        const Block *b = g_ptr_array_index(plan->blocks, i);

        if (!virtio_dev_ram_bytes(b->first->queues,
                                  virtio_queue_size(b->max_depth),
                                  b->max_depth, b->max_bs)) {
            g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                        "%u queues of depth %u with blocks of %u bytes, from "
                        "different cells, do not fit the 3 GiB of guest "
                        "memory together; measure them in two runs",
                        b->first->queues, b->max_depth, b->max_bs);
            return false;
        }
    }
    return true;
}

static void make_blocks(const Options *o, Plan *plan)
{
    for (unsigned i = 0; i < plan->cells->len; i++) {
        Cell *c = g_ptr_array_index(plan->cells, i);
        Block *b = NULL;
        unsigned n;

        for (n = 0; n < plan->blocks->len; n++) {
            b = g_ptr_array_index(plan->blocks, n);
            if (same_process(b->first, c)) {
                break;
            }
        }
        if (n == plan->blocks->len) {
            b = g_new0(Block, 1);
            b->first = c;
            b->cells = g_ptr_array_new();
            b->irq = c->driver == DRIVER_IRQ;
            g_ptr_array_add(plan->blocks, b);
        }
        c->block = n;
        g_ptr_array_add(b->cells, c);
        b->max_depth = MAX(b->max_depth, c->depth);
        b->max_bs = MAX(b->max_bs, c->bs);
        b->writes |= load_rw_writes(c->rw) || o->verify;
    }
}

/* TAP paths: /virtio-blk/io_uring/randread/qd1 and what else varies. */
static void make_short_names(Plan *plan)
{
    const Cell *first = g_ptr_array_index(plan->cells, 0);
    bool device = false, iothreads = false, queues = false, bs = false;
    bool driver = false, rate = false, think = false, vms = false;

    for (unsigned i = 0; i < plan->cells->len; i++) {
        const Cell *c = g_ptr_array_index(plan->cells, i);

        device |= c->device != first->device;
        iothreads |= c->iothreads != first->iothreads;
        queues |= c->queues != first->queues;
        bs |= c->bs != first->bs;
        driver |= c->driver != first->driver;
        rate |= c->rate != first->rate;
        think |= c->think_us != first->think_us;
        vms |= c->vms != first->vms;
    }
    for (unsigned i = 0; i < plan->cells->len; i++) {
        Cell *c = g_ptr_array_index(plan->cells, i);
        g_autofree char *size = size_to_string(c->bs);
        GString *s = g_string_new(NULL);

        g_string_printf(s, "/%s/%s/%s/qd%u",
                        c->model == MODEL_BLK ? "virtio-blk" :
                        c->model == MODEL_SCSI ? "virtio-scsi" :
                        "vhost-user-blk",
                        c->aio == AIO_NONE ? "null-co" : aio_names[c->aio],
                        load_rw_names[c->rw], c->depth);
        if (bs) {
            g_string_append_printf(s, "/bs%s", size);
        }
        if (iothreads) {
            g_string_append_printf(s, "/iothreads%u", c->iothreads);
        }
        if (queues) {
            g_string_append_printf(s, "/queues%u", c->queues);
        }
        if (driver) {
            g_string_append_printf(s, "/%s", load_driver_names[c->driver]);
        }
        if (rate) {
            g_string_append_printf(s, "/rate%g", c->rate);
        }
        if (think) {
            g_string_append_printf(s, "/think%g", c->think_us);
        }
        if (vms) {
            g_string_append_printf(s, "/vms%u", c->vms);
        }
        if (device) {
            g_string_append_printf(s, "/%s", c->device->label);
        }
        c->short_name = g_string_free(s, false);
    }
}

static bool add_device(Plan *plan, DeviceInfo *d, GError **errp)
{
    if (!d) {
        return false;
    }
    for (unsigned i = 0; i < plan->devices->len; i++) {
        DeviceInfo *other = g_ptr_array_index(plan->devices, i);

        if (!strcmp(other->label, d->label)) {
            g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                        "--device: two devices have the label '%s'; give "
                        "LABEL=PATH", d->label);
            device_free(d);
            return false;
        }
    }
    g_ptr_array_add(plan->devices, d);
    return true;
}

static bool add_devices(const Options *o, Plan *plan, GError **errp)
{
    for (char **p = o->devices; p && *p; p++) {
        const char *path;
        g_autofree char *label = split_label(*p, &path);

        if (!add_device(plan, device_probe(path, label, errp), errp)) {
            return false;
        }
    }
    if (o->scratch &&
        !add_device(plan, device_scratch(o->scratch, errp), errp)) {
        return false;
    }
    if (o->null_device) {
        uint64_t size = MAX(NULL_DEVICE_BYTES, o->span);

        return add_device(plan, device_null(size), errp);
    }
    return true;
}

static void device_free_void(void *opaque)
{
    device_free(opaque);
}

Plan *plan_new(const Options *o, GError **errp)
{
    g_autoptr(Plan) plan = g_new0(Plan, 1);
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    const Matrix *m = o->preset ? o->preset->matrix : default_matrix;

    plan->devices = g_ptr_array_new_with_free_func(device_free_void);
    plan->cells = g_ptr_array_new_with_free_func(cell_free);
    plan->blocks = g_ptr_array_new_with_free_func(block_free);
    if (!add_devices(o, plan, errp)) {
        return NULL;
    }
    for (; m->rw; m++) {
        if (!add_matrix(o, plan, seen, m, errp)) {
            return NULL;
        }
    }
    if (!plan->cells->len) {
        g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_USAGE,
                    "--preset: '%s' has no cells for these devices",
                    o->preset->name);
        return NULL;
    }
    make_blocks(o, plan);
    if (!check_blocks(plan, errp)) {
        return NULL;
    }
    make_short_names(plan);
    plan->writes |= o->verify;
    for (unsigned i = 0; plan->writes && i < plan->devices->len; i++) {
        if (!device_check_writable(g_ptr_array_index(plan->devices, i),
                                   o->allow_write, errp)) {
            return NULL;
        }
    }
    return g_steal_pointer(&plan);
}

void plan_free(Plan *plan)
{
    if (!plan) {
        return;
    }
    g_clear_pointer(&plan->blocks, g_ptr_array_unref);
    g_clear_pointer(&plan->cells, g_ptr_array_unref);
    g_clear_pointer(&plan->devices, g_ptr_array_unref);
    g_free(plan);
}

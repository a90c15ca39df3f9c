/*
 * A QEMU set up for a block of cells
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "instance.h"
#include "json-put.h"
#include "run.h"
#include "vhost-user.h"

#define SCSI_ATTEMPTS 4

/* true, 12 and "text" as the JSON types that QAPI wants to see; "on" stays a
 * string, as OnOffAuto properties want it */
static void add_value(JsonBuilder *b, const char *value)
{
    gint64 n;

    if (!strcmp(value, "true")) {
        json_builder_add_boolean_value(b, true);
    } else if (!strcmp(value, "false")) {
        json_builder_add_boolean_value(b, false);
    } else if (g_ascii_string_to_signed(value, 10, G_MININT64, G_MAXINT64, &n,
                                        NULL)) {
        json_builder_add_int_value(b, n);
    } else {
        json_builder_add_string_value(b, value);
    }
}

/* The --set properties of @object for @qemu. */
static void set_extra(JsonBuilder *b, const Options *o, const QemuBinary *qemu,
                      const char *object)
{
    for (unsigned i = 0; i < o->props->len; i++) {
        const ExtraProp *p = g_ptr_array_index(o->props, i);

        if (!strcmp(p->object, object) &&
            (!p->qemu || !strcmp(p->qemu, qemu->label))) {
            json_builder_set_member_name(b, p->name);
            add_value(b, p->value);
        }
    }
}

static char *builder_to_string(JsonBuilder *b)
{
    g_autoptr(JsonGenerator) gen = json_generator_new();
    g_autoptr(JsonNode) root = json_builder_get_root(b);

    json_generator_set_root(gen, root);
    return json_generator_to_data(gen, NULL);
}

static char *iothread_json(const Options *o, const QemuBinary *qemu,
                           unsigned i)
{
    g_autoptr(JsonBuilder) b = json_builder_new();
    g_autofree char *id = g_strdup_printf("iothread%u", i);

    json_builder_begin_object(b);
    put_string(b, "qom-type", "iothread");
    put_string(b, "id", id);
    if (o->request_latency && qemu->has_request_latency) {
        put_bool(b, "x-request-latency", true);
    }
    set_extra(b, o, qemu, "iothread");
    json_builder_end_object(b);
    return builder_to_string(b);
}

static void set_direct(JsonBuilder *b)
{
    json_builder_set_member_name(b, "cache");
    json_builder_begin_object(b);
    put_bool(b, "direct", true);
    json_builder_end_object(b);
}

/* null-co by itself; a file or device with the raw format driver on top, as
 * management software sets it up. */
static char *blockdev_json(const Options *o, const QemuBinary *qemu,
                           const Block *block)
{
    const DeviceInfo *d = block->first->device;
    g_autoptr(JsonBuilder) b = json_builder_new();

    json_builder_begin_object(b);
    put_string(b, "node-name", "disk0");
    if (d->kind == DEVICE_NULL) {
        put_string(b, "driver", "null-co");
        put_int(b, "size", d->size);
        put_bool(b, "read-zeroes", false);
        set_extra(b, o, qemu, "blockdev");
    } else {
        put_string(b, "driver", "raw");
        put_bool(b, "read-only", !block->writes);
        set_direct(b);
        json_builder_set_member_name(b, "file");
        json_builder_begin_object(b);
        put_string(b, "node-name", "file0");
        put_string(b, "driver",
                   d->kind == DEVICE_FILE ? "file" : "host_device");
        put_string(b, "filename", d->path);
        put_string(b, "aio", aio_names[block->first->aio]);
        put_bool(b, "read-only", !block->writes);
        set_direct(b);
        set_extra(b, o, qemu, "blockdev");
        json_builder_end_object(b);
    }
    json_builder_end_object(b);
    return builder_to_string(b);
}

static void set_iothreads(JsonBuilder *b, unsigned n)
{
    if (n == 1) {
        put_string(b, "iothread", "iothread0");
    } else if (n > 1) {
        json_builder_set_member_name(b, "iothread-vq-mapping");
        json_builder_begin_array(b);
        for (unsigned i = 0; i < n; i++) {
            g_autofree char *id = g_strdup_printf("iothread%u", i);

            json_builder_begin_object(b);
            put_string(b, "iothread", id);
            json_builder_end_object(b);
        }
        json_builder_end_array(b);
    }
}

static char *device_json(const Options *o, const QemuBinary *qemu,
                         const Block *block)
{
    const Cell *c = block->first;
    bool blk = c->model == MODEL_BLK;
    unsigned size = virtio_queue_size(block->max_depth);
    g_autofree char *slot = g_strdup_printf("%u", VIRTIO_DEV_SLOT);
    g_autoptr(JsonBuilder) b = json_builder_new();

    json_builder_begin_object(b);
    put_string(b, "driver", virtio_model_names[c->model]);
    put_string(b, "id", "dev0");
    put_string(b, "addr", slot);
    put_string(b, "disable-legacy", "on");
    set_iothreads(b, c->iothreads);
    if (blk) {
        put_string(b, "drive", "disk0");
        put_int(b, "num-queues", c->queues);
        put_int(b, "queue-size", size);
        /* the QEMUs under test and --vms share the device */
        put_bool(b, "share-rw", true);
    } else {
        put_int(b, "num_queues", c->queues);
        put_int(b, "virtqueue_size", size);
    }
    set_extra(b, o, qemu, "device");
    json_builder_end_object(b);
    return builder_to_string(b);
}

static char *export_json(const Options *o, const QemuBinary *qemu,
                         const Block *block, const char *socket)
{
    const Cell *c = block->first;
    g_autoptr(JsonBuilder) b = json_builder_new();

    json_builder_begin_object(b);
    put_string(b, "type", "vhost-user-blk");
    put_string(b, "id", "export0");
    put_string(b, "node-name", "disk0");
    json_builder_set_member_name(b, "addr");
    json_builder_begin_object(b);
    put_string(b, "type", "unix");
    put_string(b, "path", socket);
    put_bool(b, "abstract", true);
    json_builder_end_object(b);
    put_bool(b, "writable", block->writes);
    put_int(b, "num-queues", c->queues);
    if (c->iothreads) {
        put_string(b, "iothread", "iothread0");
    }
    set_extra(b, o, qemu, "export");
    json_builder_end_object(b);
    return builder_to_string(b);
}

/* qemu-storage-daemon wants two dashes. @value is taken. */
static void add_option(GPtrArray *a, const Cell *c, const char *name,
                       char *value)
{
    g_ptr_array_add(a, g_strconcat(c->model == MODEL_EXPORT ? "--" : "-", name,
                                   NULL));
    g_ptr_array_add(a, value);
}

char **instance_args(const Options *o, const QemuBinary *qemu,
                     const Block *block, const char *socket)
{
    const Cell *c = block->first;
    GPtrArray *a = g_ptr_array_new();

    for (unsigned i = 0; i < c->iothreads; i++) {
        add_option(a, c, "object", iothread_json(o, qemu, i));
    }
    if (!c->iothreads && o->request_latency && qemu->has_request_latency) {
        add_option(a, c, "object",
                   g_strdup("main-loop,id=main-loop,x-request-latency=on"));
    }
    add_option(a, c, "blockdev", blockdev_json(o, qemu, block));
    if (c->model == MODEL_EXPORT) {
        add_option(a, c, "export", export_json(o, qemu, block, socket));
    } else {
        add_option(a, c, "device", device_json(o, qemu, block));
    }
    if (c->model == MODEL_SCSI) {
        add_option(a, c, "device",
                   g_strdup("{\"driver\":\"scsi-hd\",\"bus\":\"dev0.0\","
                            "\"drive\":\"disk0\",\"share-rw\":true}"));
    }
    g_ptr_array_add(a, NULL);
    return (char **)g_ptr_array_free(a, false);
}

void instance_set_load_error(Instance *inst, const LoadStats *stats,
                             const char *doing, GError **errp)
{
    const LoadError *e = &stats->first_error;

    qemu_proc_set_error(inst->proc, errp, "%s: %" G_GUINT64_FORMAT " errors, "
                        "the first for the %s of %u bytes at sector %"
                        G_GUINT64_FORMAT ": %s", doing, stats->errors,
                        e->is_write ? "write" : "read", e->bytes, e->sector,
                        e->status);
}

bool instance_drain(Instance *inst, LoadRun *run, const char *doing,
                    bool stoppable, GError **errp)
{
    uint64_t completed = load_completed(run);
    uint64_t last = clock_monotonic_ns();
    unsigned nap_us = 20;

    while (!load_finished(run)) {
        uint64_t now = clock_monotonic_ns();
        uint64_t n = load_completed(run);

        if (stoppable && run_stop_requested) {
            load_abort(run);
            return false;
        }
        if (!qemu_proc_alive(inst->proc)) {
            load_abort(run);
            qemu_proc_set_error(inst->proc, errp, "QEMU ended during %s",
                                doing);
            return false;
        }
        if (n != completed) {
            completed = n;
            last = now;
        } else if (now - last > inst->proc->timeout_ms * 1000000ull) {
            uint64_t in_flight = load_in_flight(run);

            load_abort(run);
            qemu_proc_set_error(inst->proc, errp, "nothing completed for %d s "
                                "during %s, %" G_GUINT64_FORMAT " requests "
                                "are in flight", inst->proc->timeout_ms / 1000,
                                doing, in_flight);
            return false;
        }
        g_usleep(nap_us);
        nap_us = MIN(nap_us * 2, 2000);
    }
    return true;
}

bool instance_pass(Instance *inst, const PassSpec *pass, const char *doing,
                   bool *refused, GError **errp)
{
    LoadSpec spec = {
        .rw = pass->rw,
        .driver = DRIVER_SLEEP,
        .sleep_ns = 50000,
        .depth = pass->depth,
        .bs = pass->bs,
        .span = pass->span,
        .limit = pass->limit,
        .verify = pass->verify,
        .pattern_seed = pass->pattern_seed,
        .generation = pass->generation,
    };
    LoadRun *run = load_start(inst->dev, &spec, 1);
    bool ok = instance_drain(inst, run, doing, true, errp);
    g_autofree LoadStats *stats = g_new(LoadStats, 1);

    load_finish(run, stats);
    if (refused) {
        *refused = ok && stats->errors;
    }
    if (ok && stats->errors) {
        instance_set_load_error(inst, stats, doing, errp);
        ok = false;
    }
    load_stats_clear(stats);
    return ok;
}

/*
 * A read on each queue: the eventfds are the right ones, the device answers,
 * and a SCSI disk has had its chance to report the unit attention that
 * follows a reset.
 */
static bool try_queues(Instance *inst, const Block *block, GError **errp)
{
    PassSpec pass = {
        .rw = RW_READ,
        .bs = block->max_bs,
        .depth = 1,
        .span = block->first->device->size,
        .limit = 1,
    };
    int attempts = block->first->model == MODEL_SCSI ? SCSI_ATTEMPTS : 1;

    for (;;) {
        g_autoptr(GError) err = NULL;
        bool refused;

        if (instance_pass(inst, &pass, "a first read on each queue", &refused,
                          &err)) {
            return true;
        }
        if (!--attempts || !refused) {
            if (err) {
                g_propagate_error(errp, g_steal_pointer(&err));
            } else {
                g_set_error(errp, AIO_BENCH_ERROR, AIO_BENCH_FAILED,
                            "%s: interrupted", inst->proc->label);
            }
            return false;
        }
    }
}

Instance *instance_new(const Options *o, const QemuBinary *qemu,
                       QemuAccel accel, const Block *block, GError **errp)
{
    g_autoptr(Instance) inst = g_new0(Instance, 1);
    static unsigned count;
    g_autofree char *socket = g_strdup_printf("aio-bench-%d-%u", getpid(),
                                              count++);
    g_auto(GStrv) args = instance_args(o, qemu, block, socket);
    const Cell *c = block->first;
    uint64_t ram = virtio_dev_ram_bytes(c->queues,
                                        virtio_queue_size(block->max_depth),
                                        block->max_depth, block->max_bs);

    inst->proc = qemu_proc_start(qemu->path, qemu->label, accel,
                                 (const char *const *)args, ram,
                                 o->timeout_s * 1000, errp);
    if (!inst->proc) {
        return NULL;
    }
    inst->proc->major = qemu->major;
    inst->dev = c->model == MODEL_EXPORT ?
        vhost_user_dev_new(inst->proc, socket, c->queues, block->max_depth,
                           block->max_bs, false, errp) :
        virtio_dev_new(inst->proc, c->model, c->queues, block->max_depth,
                       block->max_bs, block->irq, errp);
    if (!inst->dev) {
        return NULL;
    }
    if (inst->dev->capacity &&
        inst->dev->capacity != c->device->size / SECTOR_SIZE) {
        qemu_proc_set_error(inst->proc, errp, "the guest sees %"
                            G_GUINT64_FORMAT " sectors, '%s' has %"
                            G_GUINT64_FORMAT, inst->dev->capacity,
                            c->device->label, c->device->size / SECTOR_SIZE);
        return NULL;
    }
    if (!try_queues(inst, block, errp)) {
        return NULL;
    }
    return g_steal_pointer(&inst);
}

void instance_free(Instance *inst)
{
    if (!inst) {
        return;
    }
    virtio_dev_free(inst->dev);
    qemu_proc_stop(inst->proc);
    g_free(inst);
}

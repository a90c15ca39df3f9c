/*
 * What the command line asks for
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_OPTIONS_H
#define AIO_BENCH_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <glib.h>

#include "aio-stats.h"
#include "load.h"

typedef enum AioMode {
    AIO_THREADS,
    AIO_NATIVE,
    AIO_IO_URING,
    AIO_AUTO,           /* QEMU chooses; stock QEMU does not know it */
    AIO_NONE,           /* of a device without a file: null-co */
    AIO__MAX,
} AioMode;

extern const char *const aio_names[AIO__MAX + 1];

/*
 * The dimensions of a matrix of cells, as text: a comma-separated list each.
 * NULL: the default. The command line's values take the place of a preset's.
 */
typedef struct Matrix {
    const char *model;
    const char *aio;
    const char *iothreads;
    const char *queues;         /* or "auto": one for each IOThread */
    const char *depth;
    const char *bs;
    const char *rw;
    const char *driver;         /* or "auto": spin up to depth 8, else sleep */
    const char *rate;           /* IOPS of the device; 0: as many as it can */
    const char *think;          /* microseconds */
    const char *vms;
    /* only these device kinds; NULL: all */
    const char *kinds;
} Matrix;

typedef struct Preset {
    const char *name;
    const char *what;
    const Matrix *matrix;       /* ends with one whose rw is NULL */
    bool verify;
} Preset;

extern const Preset presets[];

/* An extra property of an object that the QEMU command line creates. */
typedef struct ExtraProp {
    char *qemu;                 /* label of the QEMU it is for; NULL: all */
    char *object;               /* "iothread", "device", "blockdev", "export" */
    char *name;
    char *value;
} ExtraProp;

typedef struct QemuBinary {
    char *label;
    char *path;
    /* filled in by run_new() */
    char *version;              /* first line of --version */
    int major;
    char *program;              /* what runs, if path is a script; or NULL */
    AioStatsSchema *stats;      /* of its I/O path; NULL: it has none */
    bool has_request_latency;
} QemuBinary;

typedef struct Options {
    GPtrArray *qemus;           /* QemuBinary */
    char **devices;             /* "[LABEL=]PATH" */
    bool null_device;
    uint64_t scratch;           /* bytes of a temporary file; 0: none */
    Matrix dims;                /* the command line's own */
    const Preset *preset;       /* NULL: none */
    GPtrArray *props;           /* ExtraProp */
    int accel;                  /* QemuAccel; -1: what all QEMUs have */
    LoadArrival arrival;
    double time_s;
    double warmup_s;
    int repeat;
    int turns;
    int64_t seed;
    int timeout_s;
    int sleep_us;
    int driver_threads;
    uint64_t span;              /* bytes; 0: all of the device */
    bool export;                /* of a qemu-storage-daemon: vhost-user-blk */
    bool verify;
    bool allow_write;
    bool host;
    bool request_latency;
    double confidence;
    char *json;
    bool tap;
    bool quiet;
} Options;

/*
 * Parse the command line. False with one line in @errp, or, for --help,
 * --version and --list-presets, *@done set after printing.
 */
bool options_parse(Options *o, int *argc, char ***argv, bool *done,
                   GError **errp);
void options_clear(Options *o);

/*
 * Parsers of list elements; @what is the option's name, for the message.
 * Public for the unit tests.
 */
bool parse_size(const char *what, const char *text, uint64_t *v,
                GError **errp);
bool parse_number(const char *what, const char *text, double min, double max,
                  double *v, GError **errp);
bool parse_choice(const char *what, const char *text,
                  const char *const *names, int *v, GError **errp);

/* 4096 -> "4k"; free with g_free(). */
char *size_to_string(uint64_t v);

/* "[LABEL=]REST" -> label or NULL, and rest. */
char *split_label(const char *text, const char **rest);

#endif

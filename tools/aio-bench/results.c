/*
 * What a run is reported as: a table or TAP, and the comparison of QEMUs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <math.h>
#include <stdio.h>

#include "host-ref.h"
#include "random.h"
#include "results.h"

const struct CompareMetric compared_metrics[COMPARED_METRICS] = {
    { M_IOPS, "iops", "IOPS" },
    { M_LAT_P50, "lat_p50", "p50" },
    { M_LAT_P99, "lat_p99", "p99" },
    { M_CPU_US_PER_IO, "cpu", "CPU/IO" },
};

unsigned results_comparisons(const Run *run)
{
    return run->plan->cells->len * (run->opt->qemus->len - 1) *
           COMPARED_METRICS;
}

double results_level(const Run *run)
{
    return stats_simultaneous_level(run->opt->confidence,
                                    results_comparisons(run));
}

Interval results_compare(const Run *run, unsigned cell, unsigned b, Metric m)
{
    g_autofree double *va = NULL, *vb = NULL;
    gint64 key = ((gint64)cell << 32) | b << 16 | m;
    Interval *known = g_hash_table_lookup(run->comparisons, &key);
    gint64 *new_key;
    size_t n;

    if (known) {
        return *known;
    }
    n = result_pairs(run_result(run, cell, 0), run_result(run, cell, b), m,
                     &va, &vb);
    known = g_new(Interval, 1);
    *known = stats_ratio_interval(va, vb, n, results_level(run),
                                  random_mix(run->opt->seed + cell));
    new_key = g_new(gint64, 1);
    *new_key = key;
    g_hash_table_insert(run->comparisons, new_key, known);
    return *known;
}

static double median_of(const CellResult *r, Metric m)
{
    size_t n;
    g_autofree double *v = result_metric(r, m, &n);

    return stats_median(v, n);
}

static uint64_t missed_of(const CellResult *r)
{
    uint64_t missed = 0;

    for (unsigned i = 0; i < r->samples->len; i++) {
        missed += ((Sample *)g_ptr_array_index(r->samples, i))->missed;
    }
    return missed;
}

/* "1.23 [1.11, 1.31]", or "~" where no difference is shown */
static char *ratio_text(const Interval *i)
{
    if (isnan(i->mid)) {
        return g_strdup("-");
    }
    if (!stats_excludes(i, 1)) {
        return g_strdup("~");
    }
    return g_strdup_printf("%.3f [%.3f, %.3f]", i->mid, i->lo, i->hi);
}

static void print_result_line(const Run *run, const Cell *c, unsigned qemu)
{
    const QemuBinary *q = g_ptr_array_index(run->opt->qemus, qemu);
    const CellResult *r = run_result(run, c->id, qemu);

    if (r->error) {
        printf("  %-14s failed: %s\n", q->label, r->error);
        return;
    }
    if (!r->samples->len) {
        printf("  %-14s not measured\n", q->label);
        return;
    }
    printf("  %-14s %9.0f %8.1f %9.2f %9.2f %9.2f %9.2f %8.3f %7.2f", q->label,
           median_of(r, M_IOPS), median_of(r, M_BW_BYTES) / 1e6,
           median_of(r, M_LAT_MEAN) / 1e3, median_of(r, M_LAT_P50) / 1e3,
           median_of(r, M_LAT_P99) / 1e3, median_of(r, M_LAT_P99_9) / 1e3,
           median_of(r, M_CPU_US_PER_IO), median_of(r, M_CTX_PER_IO));
    if (run->opt->verify) {
        printf("  %" G_GUINT64_FORMAT " requests verified", r->verified);
    }
    if (missed_of(r)) {
        printf("  %" G_GUINT64_FORMAT " due requests never sent",
               missed_of(r));
    }
    printf("\n");
}

static void print_comparison(const Run *run, const Cell *c, unsigned b)
{
    const QemuBinary *qa = g_ptr_array_index(run->opt->qemus, 0);
    const QemuBinary *qb = g_ptr_array_index(run->opt->qemus, b);

    if (!run_result(run, c->id, 0)->samples->len ||
        !run_result(run, c->id, b)->samples->len) {
        return;
    }
    printf("  %s / %s:", qb->label, qa->label);
    for (unsigned m = 0; m < COMPARED_METRICS; m++) {
        Interval i = results_compare(run, c->id, b,
                                     compared_metrics[m].metric);
        g_autofree char *text = ratio_text(&i);

        printf("  %s %s", compared_metrics[m].title, text);
    }
    printf("\n");
}

static void print_host(const GPtrArray *refs)
{
    if (!refs || !refs->len) {
        return;
    }
    printf("\nWithout QEMU (fio)\n  %-38s %9s %9s %9s %8s\n", "",
           "IOPS", "p50 us", "p99 us", "CPU us");
    for (unsigned i = 0; i < refs->len; i++) {
        const HostRef *h = g_ptr_array_index(refs, i);
        g_autofree char *bs = size_to_string(h->bs);
        g_autofree char *name =
            g_strdup_printf("%s/%s/%s/%s/%u x qd%u", h->device->label,
                            h->engine, load_rw_names[h->rw], bs, h->numjobs,
                            h->depth);

        if (h->error) {
            printf("  %-38s failed: %s\n", name, h->error);
        } else {
            printf("  %-38s %9.0f %9.2f %9.2f %8.3f\n", name, h->iops,
                   h->lat_p50_ns / 1e3, h->lat_p99_ns / 1e3,
                   h->cpu_us_per_io);
        }
    }
}

void results_print_table(const Run *run, const GPtrArray *refs)
{
    const Options *o = run->opt;

    printf("%g s measured after %g s of warm-up, %d times", o->time_s,
           o->warmup_s, o->repeat);
    if (o->turns > 1) {
        printf(", each in %d turns", o->turns);
    }
    printf("; medians; latency in us;\nCPU: us of all of QEMU's threads per "
           "I/O; ctx: context switches per I/O\n\n");
    printf("  %-14s %9s %8s %9s %9s %9s %9s %8s %7s\n", "", "IOPS", "MB/s",
           "mean", "p50", "p99", "p99.9", "CPU", "ctx");
    for (unsigned i = 0; i < run->plan->cells->len; i++) {
        const Cell *c = g_ptr_array_index(run->plan->cells, i);

        printf("%s\n", c->name);
        for (unsigned q = 0; q < o->qemus->len; q++) {
            print_result_line(run, c, q);
        }
        for (unsigned q = 1; q < o->qemus->len; q++) {
            print_comparison(run, c, q);
        }
    }
    print_host(refs);
    if (o->qemus->len > 1) {
        unsigned need = stats_samples_needed(results_level(run));
        unsigned have = run_result(run, 0, 0)->samples->len;

        printf("\nRatios are medians of pairs measured in turn; the intervals "
               "hold together with\n%g %% confidence; ~: the interval spans "
               "1, no difference is shown.\n", 100 * o->confidence);
        if (need > have) {
            printf("With %u comparisons at least --repeat %u is needed to "
                   "show any difference.\n", results_comparisons(run),
                   need);
        }
    }
    if (run->interrupted) {
        printf("\nInterrupted: %u of %u measurements were made.\n",
               run->samples_done, run->samples_total);
    }
}

void results_print_tap(const Run *run)
{
    unsigned n_qemus = run->opt->qemus->len;
    unsigned test = 0;

    printf("TAP version 13\n1..%u\n", run->plan->cells->len * n_qemus);
    for (unsigned i = 0; i < run->plan->cells->len; i++) {
        const Cell *c = g_ptr_array_index(run->plan->cells, i);

        for (unsigned q = 0; q < n_qemus; q++) {
            const QemuBinary *qemu = g_ptr_array_index(run->opt->qemus, q);
            const CellResult *r = run_result(run, i, q);
            g_autofree char *label = n_qemus > 1 ?
                g_strdup_printf("/%s", qemu->label) : g_strdup("");

            test++;
            if (r->unsupported) {
                printf("ok %u %s%s # SKIP %s\n", test, c->short_name, label,
                       r->error);
            } else if (r->error || !r->samples->len) {
                g_autofree char *text = g_strdelimit(
                    g_strdup(r->error ? r->error : "not measured"), "\n", ' ');

                printf("not ok %u %s%s\n# %s\n", test, c->short_name, label,
                       text);
            } else {
                printf("ok %u %s%s\n# %.0f IOPS, p50 %.2f us, p99 %.2f us, "
                       "CPU %.3f us per I/O\n", test, c->short_name, label,
                       median_of(r, M_IOPS), median_of(r, M_LAT_P50) / 1e3,
                       median_of(r, M_LAT_P99) / 1e3,
                       median_of(r, M_CPU_US_PER_IO));
            }
        }
    }
}

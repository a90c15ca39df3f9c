/*
 * The version that aio-bench prints and records
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_VERSION_H
#define AIO_BENCH_VERSION_H

#define QAIO_VERSION "0.1.0"

#endif

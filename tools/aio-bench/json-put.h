/*
 * Short forms of json-glib's builder: a member and its value at once
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef AIO_BENCH_JSON_PUT_H
#define AIO_BENCH_JSON_PUT_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <json-glib/json-glib.h>

/* NULL becomes null. */
static inline void put_string(JsonBuilder *b, const char *name, const char *v)
{
    json_builder_set_member_name(b, name);
    if (v) {
        json_builder_add_string_value(b, v);
    } else {
        json_builder_add_null_value(b);
    }
}

static inline void put_int(JsonBuilder *b, const char *name, int64_t v)
{
    json_builder_set_member_name(b, name);
    json_builder_add_int_value(b, v);
}

static inline void put_bool(JsonBuilder *b, const char *name, bool v)
{
    json_builder_set_member_name(b, name);
    json_builder_add_boolean_value(b, v);
}

/* JSON knows neither infinity nor NaN: null */
static inline void put_double(JsonBuilder *b, const char *name, double v)
{
    json_builder_set_member_name(b, name);
    if (isfinite(v)) {
        json_builder_add_double_value(b, v);
    } else {
        json_builder_add_null_value(b);
    }
}

#endif

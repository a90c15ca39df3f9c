/*
 * The other end of a QMP client in unit tests: a thread that expects given
 * commands and says what it is told to, right or wrong
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FAKE_QMP_H
#define FAKE_QMP_H

#include <glib.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FAKE_GREETING \
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 2," \
    " \"major\": 10}, \"package\": \"\"}, \"capabilities\": [\"oob\"]}}\r\n"

typedef struct FakeStep {
    const char *expect;         /* is part of the command that comes */
    const char *reply;          /* NULL: none; $ becomes the command's id */
} FakeStep;

/* The answer to the negotiation, with which every script begins. */
#define FAKE_NEGOTIATE \
    { "\"qmp_capabilities\"", "{\"return\": {}, \"id\": $}\n" }

typedef struct FakeQmp {
    GThread *thread;
    int fd;
    const char *greeting;
    const FakeStep *steps;      /* ends with one of all NULL */
    bool hang_up;               /* after the last step; else the client does */
} FakeQmp;

static inline void fake_say(int fd, const char *text, const char *id)
{
    g_auto(GStrv) parts = g_strsplit(text, "$", -1);
    g_autofree char *all = g_strjoinv(id, parts);

    g_assert_cmpint(send(fd, all, strlen(all), MSG_NOSIGNAL), ==,
                    strlen(all));
}

/* One command; NULL when the client has gone. */
static inline char *fake_listen(int fd)
{
    g_autoptr(GString) line = g_string_new(NULL);
    char c;

    while (recv(fd, &c, 1, 0) == 1) {
        if (c == '\n') {
            return g_strdup(line->str);
        }
        g_string_append_c(line, c);
    }
    g_assert_cmpuint(line->len, ==, 0);
    return NULL;
}

static inline void *fake_qmp_thread(void *opaque)
{
    FakeQmp *f = opaque;
    const FakeStep *s = f->steps;

    if (f->greeting) {
        fake_say(f->fd, f->greeting, "");
    }
    for (; s->expect; s++) {
        g_autofree char *command = fake_listen(f->fd);
        g_autofree char *id = NULL;
        const char *at;

        g_assert_nonnull(command);
        g_assert_nonnull(strstr(command, s->expect));
        at = strstr(command, "\"id\":");
        g_assert_nonnull(at);
        id = g_strdup(at + strlen("\"id\":"));
        id[strspn(id, "0123456789")] = '\0';
        if (s->reply) {
            fake_say(f->fd, s->reply, id);
        }
    }
    if (!f->hang_up) {
        g_assert_null(fake_listen(f->fd));
    }
    close(f->fd);
    return NULL;
}

/* Start with @greeting, or silence if it is NULL. Returns the client's end. */
static inline int fake_qmp_start(FakeQmp *f, const char *greeting,
                                 const FakeStep *steps, bool hang_up)
{
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    f->fd = fds[0];
    f->greeting = greeting;
    f->steps = steps;
    f->hang_up = hang_up;
    f->thread = g_thread_new("fake-qmp", fake_qmp_thread, f);
    return fds[1];
}

/* After the client has been freed. */
static inline void fake_qmp_join(FakeQmp *f)
{
    g_thread_join(f->thread);
}

#endif

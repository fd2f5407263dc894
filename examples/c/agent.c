/* An agent for AgentExecutor on Debian's libnats, written from docs/protocol.md alone: [3] means its section 3.
 *
 * libnats calls hear() for each message, and every awarded job has a thread of its own; `lock` guards all that they share. */
#define _GNU_SOURCE
#include <errno.h>
#include <jansson.h>
#include <nats/nats.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <regex.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CAPACITY = 4, REMEMBERED = 10000, LARGE = 262144, TEXT = 4000, SUBJECT = 512, ID = 64 };
#define NAME "[A-Za-z0-9_-]{1,64}"

/* The award of a subtask. What ended is remembered, so that it is not run twice. */
typedef struct Job {
    char *task, *subtask;
    json_int_t epoch;
    char *traceparent, *tracestate; /* as the award brought them [6] */
    json_t *award;                  /* NULL when only a cancel told of it */
    bool held;                      /* accepted and not known to have ended: named in the offer, fills a slot */
    bool stop;                      /* its work is to end */
    bool silent;                    /* nothing more is said about it */
    bool busy;                      /* it has a thread */
    double overdue;                 /* when its slot is given back whatever the work does; 0: never */
    char kind[16], id[ID], *said;   /* its last claim */
    struct Job *next;
} Job;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t news = PTHREAD_COND_INITIALIZER; /* a job is to stop, or has ended */
static Job *jobs;                                      /* the newest first */
static int threads;                                    /* how many jobs have one */
static bool accepting = true;
static natsConnection *nc;
static const char *me, *capability;
static char boot[32];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static struct timespec from_now(double seconds)
{
    double then = now() + seconds;
    return (struct timespec){.tv_sec = (time_t) then, .tv_nsec = (long) ((then - (double) (time_t) then) * 1e9)};
}

/* Wait so long, or until `over`; gives whether it is over. */
static bool rest(const bool *over, double seconds)
{
    struct timespec until = from_now(seconds);
    pthread_mutex_lock(&lock);
    while (!*over && pthread_cond_clockwait(&news, &lock, CLOCK_MONOTONIC, &until) != ETIMEDOUT)
        ;
    bool is = *over;
    pthread_mutex_unlock(&lock);
    return is;
}

/* Messages [1]. */

static void new_id(char id[ID])
{
    natsInbox *inbox = NULL;
    natsInbox_Create(&inbox); /* "_INBOX." and 22 characters that come only once */
    snprintf(id, ID, "%s", strrchr(inbox, '.') + 1);
    natsInbox_Destroy(inbox);
}

static natsMsg *message(const Job *job, const char *type, const char *id, const char *subject, const void *data, size_t size)
{
    natsMsg *msg = NULL;
    natsMsg_Create(&msg, subject, NULL, data, (int) size);
    natsMsgHeader_Set(msg, "Ae-Type", type);
    natsMsgHeader_Set(msg, "Ae-Id", id);
    if (job && job->traceparent)
        natsMsgHeader_Set(msg, "traceparent", job->traceparent);
    if (job && job->tracestate)
        natsMsgHeader_Set(msg, "tracestate", job->tracestate);
    return msg;
}

/* Publish `body`, which is used up, on the subject that the rest of the arguments make. */
static void publish(const Job *job, const char *type, const char *id, json_t *body, const char *format, ...)
{
    char subject[SUBJECT], fresh[ID];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(subject, sizeof subject, format, arguments);
    va_end(arguments);
    if (!id)
        new_id(fresh);
    char *text = json_dumps(body, JSON_COMPACT);
    natsMsg *msg = message(job, type, id ? id : fresh, subject, text, strlen(text));
    natsConnection_PublishMsg(nc, msg);
    natsMsg_Destroy(msg);
    free(text);
    json_decref(body);
}

static bool acknowledged(natsMsg *reply)
{
    json_t *ack = json_loadb(natsMsg_GetData(reply), (size_t) natsMsg_GetDataLength(reply), 0, NULL);
    bool stored = json_object_get(ack, "seq") && !json_object_get(ack, "error");
    json_decref(ack);
    return stored;
}

/* Send a durable message until the server has stored it; false: `over` before that. */
static bool store(const Job *job, const bool *over, const char *type, const char *id, const char *subject, const void *data, size_t size)
{
    for (double pause = 0.2; !rest(over, 0); pause = pause < 2.5 ? 2 * pause : 5) {
        natsMsg *msg = message(job, type, id, subject, data, size), *reply = NULL;
        bool stored = natsConnection_RequestMsg(&reply, nc, msg, 5000) == NATS_OK && acknowledged(reply);
        natsMsg_Destroy(reply);
        natsMsg_Destroy(msg);
        if (stored)
            return true;
        rest(over, pause);
    }
    return false;
}

/* What is said about a job [4]. `more` is used up. */

static json_t *about(const Job *job, json_t *more)
{
    json_t *body = json_pack("{s:s, s:I, s:s}", "subtask", job->subtask, "epoch", job->epoch, "boot", boot);
    json_object_update(body, more);
    json_decref(more);
    return body;
}

static bool claim(Job *job, const char *kind, json_t *more)
{
    char subject[SUBJECT];
    json_t *body = about(job, more);
    snprintf(subject, sizeof subject, "ae.v1.from.%s.%s.%s", me, kind, job->task);
    pthread_mutex_lock(&lock);
    free(job->said);
    job->said = json_dumps(body, JSON_COMPACT);
    snprintf(job->kind, sizeof job->kind, "%s", kind);
    new_id(job->id);
    pthread_mutex_unlock(&lock);
    json_decref(body);
    return store(job, &job->silent, kind, job->id, subject, job->said, strlen(job->said));
}

/* Say the last claim again. It need not be stored: the award would come once more. */
static void say_again(const Job *job)
{
    if (!job->silent && job->said)
        publish(job, job->kind, job->id, json_loads(job->said, JSON_ALLOW_NUL, NULL), "ae.v1.from.%s.%s.%s", me, job->kind, job->task);
}

static void progress(const Job *job, json_t *more)
{
    char at[32];
    time_t seconds = time(NULL);
    strftime(at, sizeof at, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&seconds, &(struct tm){0}));
    json_object_set_new(more, "at", json_string(at));
    publish(job, "progress", NULL, about(job, more), "ae.v1.progress.%s.%s", me, job->task);
}

/* What is done with feedback [11]. */
static void answer_feedback(const Job *job, const json_t *feedback)
{
    const char *id = json_string_value(json_object_get(feedback, "id"));
    if (id)
        progress(job, json_pack("{s:s, s:s}", "feedback", id, "text", "noted: this work does not depend on it"));
}

static void offer(void)
{
    json_t *running = json_array();
    pthread_mutex_lock(&lock);
    for (Job *job = jobs; job; job = job->next) {
        if (job->overdue && job->overdue < now())
            job->held = false;
        if (job->held)
            json_array_append_new(running, json_pack("{s:s, s:s, s:I, s:s}", "task", job->task, "subtask", job->subtask, "epoch",
                                                     job->epoch, "state", "running"));
    }
    bool open = accepting;
    pthread_mutex_unlock(&lock);
    publish(NULL, "offer", NULL,
            json_pack("{s:s, s:[{s:s, s:f}], s:i, s:o, s:b}", "boot", boot, "capabilities", "name", capability, "estimate_s", 1.0,
                      "capacity", CAPACITY, "running", running, "accepting", open),
            "ae.v1.offer.%s", me);
}

/* Large bodies [5]. */

/* An Error. Long texts are cut, between two characters. */
static json_t *problem(const char *code, const char *text, bool retryable)
{
    size_t size = strlen(text);
    if (size > TEXT)
        for (size = TEXT; (text[size] & 0xC0) == 0x80; size--)
            ;
    return json_pack("{s:s, s:s%, s:b}", "code", code, "message", text, size, "retryable", retryable);
}

static void sha256(const void *data, size_t size, char hex[65])
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int length;
    EVP_Digest(data, size, digest, &length, EVP_sha256(), NULL);
    for (unsigned int i = 0; i < length; i++)
        sprintf(hex + 2 * i, "%02x", digest[i]);
}

/* Ask for a chunk, again after each second without an answer; NULL: the job is to stop. */
static natsMsg *ask_chunk(const Job *job, natsSubscription *answers, const char *digest, int chunk)
{
    char id[ID];
    const char *re = NULL;
    natsMsg *msg = NULL;
    new_id(id);
    while (!rest(&job->stop, 0)) {
        publish(NULL, "ask", id, json_pack("{s:s, s:i}", "digest", digest, "chunk", chunk), "ae.v1.ask.%s.blob.%s", me, job->task);
        while (natsSubscription_NextMsg(&msg, answers, 1000) == NATS_OK) {
            if (natsMsgHeader_Get(msg, "Ae-Re", &re) == NATS_OK && strcmp(re, id) == 0)
                return msg;
            natsMsg_Destroy(msg);
        }
    }
    return NULL;
}

static bool read_chunks(const Job *job, natsSubscription *answers, const char *digest, int chunks, char *into, size_t size)
{
    size_t have = 0;
    bool good = true;
    for (int chunk = 0; good && chunk < chunks; chunk++) {
        const char *type = NULL;
        natsMsg *msg = ask_chunk(job, answers, digest, chunk);
        size_t more = msg ? (size_t) natsMsg_GetDataLength(msg) : 0;
        good = msg && natsMsgHeader_Get(msg, "Ae-Type", &type) == NATS_OK && strcmp(type, "chunk") == 0 && more <= size - have;
        if (good)
            memcpy(into + have, natsMsg_GetData(msg), more);
        have += more;
        natsMsg_Destroy(msg);
    }
    return good && have == size;
}

/* The value of a Blob; NULL: it is not there, or is not what its digest says. */
static json_t *read_blob(const Job *job, const json_t *blob)
{
    const char *digest;
    char subject[SUBJECT], found[65];
    json_int_t size;
    int chunks;
    natsSubscription *answers = NULL;
    json_t *value = NULL;
    if (json_unpack((json_t *) blob, "{s:s, s:I, s:i}", "digest", &digest, "bytes", &size, "chunks", &chunks) || size < 0)
        return NULL;
    char *bytes = malloc((size_t) size + 1);
    snprintf(subject, sizeof subject, "ae.v1.to.%s.answer.%s", me, job->task);
    natsConnection_SubscribeSync(&answers, nc, subject);
    if (bytes && read_chunks(job, answers, digest, chunks, bytes, (size_t) size)) {
        sha256(bytes, (size_t) size, found);
        if (strcmp(found, digest) == 0)
            value = json_loadb(bytes, (size_t) size, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    }
    natsSubscription_Destroy(answers);
    free(bytes);
    return value;
}

/* A member of an object or a list; NULL: there is none. */
static json_t *member(const json_t *value, const json_t *step)
{
    if (!json_is_array(value))
        return json_object_get(value, json_string_value(step));
    return json_array_get(value, json_is_string(step) ? strtoul(json_string_value(step), NULL, 10) : (size_t) json_integer_value(step));
}

static json_t *part_of(json_t *list, const json_t *slice)
{
    json_int_t from, to;
    if (json_unpack((json_t *) slice, "[II]", &from, &to))
        return json_incref(list);
    json_t *part = json_array();
    for (; from < to && json_array_get(list, (size_t) from); from++)
        json_array_append(part, json_array_get(list, (size_t) from));
    return part;
}

static bool fill_in(const Job *job, json_t *input, const json_t *fill)
{
    size_t i;
    json_t *step, *at = json_object_get(fill, "at"), *blob = read_blob(job, json_object_get(fill, "blob")), *value = blob;
    json_array_foreach(json_object_get(fill, "path"), i, step)
        value = member(value, step);
    size_t last = json_array_size(at) - 1;
    for (i = 0; i < last && last != (size_t) -1; i++)
        input = member(input, json_array_get(at, i));
    step = json_array_get(at, last);
    bool good = value && step && member(input, step);
    if (good && json_is_array(input))
        json_array_set_new(input, (size_t) json_integer_value(step), part_of(value, json_object_get(fill, "slice")));
    else if (good)
        json_object_set_new(input, json_string_value(step), part_of(value, json_object_get(fill, "slice")));
    json_decref(blob);
    return good;
}

/* The award's input, complete; NULL: it cannot be had. */
static json_t *read_input(const Job *job)
{
    size_t i;
    json_t *fill, *blob = json_object_get(job->award, "input_blob"), *input = json_object_get(job->award, "input");
    if (json_is_object(blob))
        input = read_blob(job, blob);
    else
        input = input ? json_incref(input) : json_object();
    json_array_foreach(json_object_get(job->award, "fill"), i, fill)
        if (input && !fill_in(job, input, fill)) {
            json_decref(input);
            input = NULL;
        }
    return input;
}

/* A result, which is used up, as a field of a claim; by reference when it is large. NULL: the job is to stop. */
static json_t *result_field(const Job *job, json_t *result)
{
    char *text = json_dumps(result, JSON_COMPACT | JSON_ENCODE_ANY), digest[65], id[ID], subject[SUBJECT];
    size_t size = strlen(text), chunks = (size + LARGE - 1) / LARGE;
    json_t *field = NULL;
    sha256(text, size, digest);
    bool stored = true;
    for (size_t n = 0; size > LARGE && stored && n < chunks; n++) {
        size_t left = size - n * LARGE;
        snprintf(subject, sizeof subject, "ae.v1.blob.%s.%s.%zu", job->task, digest, n);
        new_id(id);
        stored = store(job, &job->stop, "chunk", id, subject, text + n * LARGE, left < LARGE ? left : LARGE);
    }
    if (size <= LARGE)
        field = json_pack("{s:O}", "result", result);
    else if (stored)
        field = json_pack("{s:{s:s, s:I, s:I}}", "result_blob", "digest", digest, "bytes", (json_int_t) size, "chunks",
                          (json_int_t) chunks);
    json_decref(result);
    free(text);
    return field;
}

/* What this agent can do [12]: put your own work here. */

/* The steps that the work will take. */
static json_t *plan(const json_t *input)
{
    size_t i;
    json_t *name, *schedule = json_array(), *steps = json_object_get(input, "steps");
    double each = json_array_size(steps) ? json_number_value(json_object_get(input, "seconds")) / json_array_size(steps) : 0;
    json_array_foreach(steps, i, name)
        json_array_append_new(schedule, json_pack("{s:O, s:f, s:f}", "name", name, "start_s", i * each, "duration_s", each));
    return schedule;
}

/* Take the steps; false: the work is to stop. */
static bool take(const Job *job, const json_t *schedule)
{
    size_t i;
    json_t *step;
    json_array_foreach(schedule, i, step) {
        progress(job, json_pack("{s:O, s:s}", "step", json_object_get(step, "name"), "state", "started"));
        if (rest(&job->stop, json_number_value(json_object_get(step, "duration_s"))))
            return false;
        progress(job, json_pack("{s:O, s:s}", "step", json_object_get(step, "name"), "state", "finished"));
    }
    return true;
}

/* The result; NULL: `*error` says why there is none. */
static json_t *work(const Job *job, json_t *input, json_t **error)
{
    const char *what = json_string_value(json_object_get(input, "do")), *text = json_string_value(json_object_get(input, "message"));
    json_t *value = json_object_get(input, "value"), *result = NULL, *schedule = plan(input);
    if (what && strcmp(what, "echo") == 0)
        result = value ? json_incref(value) : json_null();
    else if (what && strcmp(what, "wait") == 0)
        rest(&job->stop, 1e6);
    else if (what && strcmp(what, "steps") == 0)
        result = take(job, schedule) ? json_incref(json_object_get(input, "steps")) : NULL;
    else if (what && strcmp(what, "fail") == 0)
        *error = problem("handler", text ? text : "it was told to fail", !json_is_false(json_object_get(input, "retryable")));
    else
        *error = problem("input", "\"do\" is one of echo, fail, wait and steps", false);
    json_decref(schedule);
    return result;
}

/* An agent's life [3]. */

/* The thread of a job: from the award to its last claim. */
static void *run(void *closure)
{
    Job *job = closure;
    pthread_mutex_lock(&lock);
    bool held = job->held;
    pthread_mutex_unlock(&lock);
    if (!held)
        claim(job, "decline", json_pack("{s:s}", "reason", "no room"));
    else if (claim(job, "accept", json_pack("{s:o}", "schedule", plan(json_object_get(job->award, "input"))))) {
        size_t i;
        json_t *feedback, *error = NULL, *input = read_input(job);
        json_array_foreach(json_object_get(job->award, "feedback"), i, feedback)
            answer_feedback(job, feedback);
        json_t *result = input ? work(job, input, &error) : NULL;
        json_t *done = result ? result_field(job, result) : NULL;
        if (done)
            claim(job, "done", done);
        else if (rest(&job->stop, 0))
            claim(job, "release", json_pack("{s:s}", "reason", "the agent stops"));
        else
            claim(job, "failed", json_pack("{s:o}", "error", error ? json_incref(error) : problem("input", "it cannot be read", true)));
        json_decref(input);
        json_decref(error);
    }
    pthread_mutex_lock(&lock);
    job->held = false;
    pthread_mutex_unlock(&lock);
    offer();
    pthread_mutex_lock(&lock);
    json_decref(job->award);
    job->award = NULL;
    job->busy = false;
    threads--;
    pthread_cond_broadcast(&news);
    pthread_mutex_unlock(&lock);
    return NULL;
}

static Job *find(const char *task, const char *subtask)
{
    Job *job = jobs;
    while (job && (strcmp(job->task, task) || strcmp(job->subtask, subtask)))
        job = job->next;
    return job;
}

static void forget(Job **place)
{
    Job *job = *place;
    *place = job->next;
    free(job->task);
    free(job->subtask);
    free(job->traceparent);
    free(job->tracestate);
    free(job->said);
    json_decref(job->award);
    free(job);
}

/* A new job, before the others; beyond REMEMBERED the oldest that has ended is forgotten. */
static Job *remember(const char *task, const char *subtask, json_int_t epoch)
{
    Job *job = calloc(1, sizeof *job), **oldest = NULL;
    size_t count = 0;
    for (Job **place = &jobs; *place; place = &(*place)->next, count++)
        if (!(*place)->busy)
            oldest = place;
    if (count >= REMEMBERED && oldest)
        forget(oldest);
    *job = (Job){.task = strdup(task), .subtask = strdup(subtask), .epoch = epoch, .next = jobs};
    return jobs = job;
}

/* Whether there is a free slot. */
static bool has_room(void)
{
    int held = 0;
    for (Job *job = jobs; job; job = job->next)
        held += job->held;
    return accepting && held < CAPACITY;
}

/* Stop what is known of a subtask, and say nothing more about it. */
static void drop(Job *known, double grace_s)
{
    known->stop = known->silent = true;
    known->overdue = now() + grace_s;
    pthread_cond_broadcast(&news);
}

static void on_call(json_t *body)
{
    const char *task, *subtask, *wanted, *call;
    json_int_t shard;
    if (json_unpack(body, "{s:s, s:s, s:s, s:s, s:I}", "task", &task, "subtask", &subtask, "capability", &wanted, "call", &call, "shard",
                    &shard))
        return;
    pthread_mutex_lock(&lock);
    bool fits = has_room() && strcmp(wanted, capability) == 0 && json_object_size(json_object_get(body, "labels")) == 0;
    pthread_mutex_unlock(&lock);
    json_t *answer = json_pack("{s:s, s:s, s:s}", "subtask", subtask, "call", call, "boot", boot);
    if (fits) {
        json_object_set_new(answer, "estimate_s", json_real(1));
        json_object_set_new(answer, "schedule", plan(json_object_get(body, "input")));
    } else
        json_object_set_new(answer, "reason", json_string("no room, or not what this agent does"));
    publish(NULL, fits ? "bid" : "refusal", NULL, answer, "ae.v1.bid.%s.%" JSON_INTEGER_FORMAT ".%s", me, shard, task);
}

static char *header(natsMsg *msg, const char *name)
{
    const char *value = NULL;
    return natsMsgHeader_Get(msg, name, &value) == NATS_OK ? strdup(value) : NULL;
}

static void on_award(json_t *body, natsMsg *msg)
{
    const char *task, *subtask, *whose;
    json_int_t epoch;
    pthread_t thread;
    if (json_unpack(body, "{s:s, s:s, s:I, s:s}", "task", &task, "subtask", &subtask, "epoch", &epoch, "boot", &whose))
        return;
    if (strcmp(whose, boot) != 0)
        return;
    pthread_mutex_lock(&lock);
    Job *known = find(task, subtask);
    if (known && known->epoch == epoch)
        say_again(known);
    else if (!known || known->epoch < epoch) {
        if (known)
            drop(known, 5);
        bool room = has_room();
        Job *job = remember(task, subtask, epoch);
        job->award = json_incref(body);
        job->traceparent = header(msg, "traceparent");
        job->tracestate = header(msg, "tracestate");
        if (pthread_create(&thread, NULL, run, job) == 0) { /* it waits for the lock; without a thread the award is not accepted */
            pthread_detach(thread);
            job->held = room;
            job->busy = true;
            threads++;
        }
    }
    pthread_mutex_unlock(&lock);
    offer();
}

static void on_cancel(json_t *body)
{
    const char *task, *subtask;
    json_int_t epoch;
    double grace_s = 5;
    if (json_unpack(body, "{s:s, s:s, s:I, s?F}", "task", &task, "subtask", &subtask, "epoch", &epoch, "grace_s", &grace_s))
        return;
    pthread_mutex_lock(&lock);
    Job *known = find(task, subtask);
    if (known && known->epoch <= epoch)
        drop(known, grace_s);
    if (!known || known->epoch < epoch)
        remember(task, subtask, epoch)->silent = true;
    pthread_mutex_unlock(&lock);
}

static void on_feedback(json_t *body)
{
    const char *task, *subtask;
    if (json_unpack(body, "{s:s, s:s}", "task", &task, "subtask", &subtask))
        return;
    pthread_mutex_lock(&lock);
    Job *known = find(task, subtask);
    if (known && known->held && !known->silent)
        answer_feedback(known, body);
    pthread_mutex_unlock(&lock);
}

static void on_offer(json_t *body)
{
    const char *other = json_string_value(json_object_get(body, "boot"));
    if (other && strcmp(other, boot) > 0) {
        fprintf(stderr, "a newer process is called %s: this one stops\n", me);
        _Exit(1);
    }
}

/* What comes is read by its Ae-Type; what is unknown, or makes no sense, is dropped. */
static void hear(natsConnection *connection, natsSubscription *subscription, natsMsg *msg, void *closure)
{
    (void) connection, (void) subscription, (void) closure;
    const char *type = NULL;
    json_t *body = json_loadb(natsMsg_GetData(msg), (size_t) natsMsg_GetDataLength(msg), JSON_ALLOW_NUL, NULL);
    if (!body || natsMsgHeader_Get(msg, "Ae-Type", &type) != NATS_OK)
        type = "";
    if (strcmp(type, "call") == 0)
        on_call(body);
    else if (strcmp(type, "award") == 0)
        on_award(body, msg);
    else if (strcmp(type, "cancel") == 0)
        on_cancel(body);
    else if (strcmp(type, "feedback") == 0)
        on_feedback(body);
    else if (strcmp(type, "offer") == 0)
        on_offer(body);
    json_decref(body);
    natsMsg_Destroy(msg);
}

static const char *setting(const char *variable, const char *otherwise)
{
    const char *value = getenv(variable);
    return value && *value ? value : otherwise;
}

static bool matches(const char *text, const char *pattern)
{
    regex_t compiled;
    bool found = regcomp(&compiled, pattern, REG_EXTENDED | REG_NOSUB) == 0 && regexec(&compiled, text, 0, NULL, 0) == 0;
    regfree(&compiled);
    return found;
}

/* Whether both names may stand in subjects [1]; says what is wrong. */
static bool names_are_right(void)
{
    if (!matches(me, "^" NAME "$"))
        fprintf(stderr, "\"%s\" is no name: 1 to 64 of A-Z a-z 0-9 _ -\n", me);
    else if (strlen(capability) > 128 || !matches(capability, "^" NAME "(\\." NAME ")*$"))
        fprintf(stderr, "\"%s\" is no capability: names of A-Z a-z 0-9 _ - joined by dots, up to 128 characters\n", capability);
    else
        return true;
    return false;
}

/* Whether a connection that failed so is worth another try. */
static bool worth_a_try(natsStatus status)
{
    return status != NATS_OK && status != NATS_INVALID_ARG && status != NATS_CONNECTION_AUTH_FAILED;
}

/* Try until a server answers; a signal of `end` ends the program meanwhile. */
static natsStatus keep_trying(natsOptions *options, const char *url, const sigset_t *end)
{
    natsStatus status = natsConnection_Connect(&nc, options);
    if (worth_a_try(status))
        fprintf(stderr, "no server at %s (%s), trying again\n", url, natsStatus_GetText(status));
    for (; worth_a_try(status); status = natsConnection_Connect(&nc, options))
        if (sigtimedwait(end, NULL, &(struct timespec){.tv_nsec = 250000000}) >= 0)
            exit(0);
    return status;
}

static natsStatus join_bus(const char *url, const sigset_t *end)
{
    natsOptions *options = NULL;
    natsStatus status = natsOptions_Create(&options);
    if (status == NATS_OK) {
        natsOptions_SetURL(options, url);
        natsOptions_SetName(options, me);
        natsOptions_SetMaxReconnect(options, -1);
        natsOptions_SetReconnectWait(options, 250);
        status = keep_trying(options, url, end);
    }
    natsOptions_Destroy(options);
    return status;
}

static natsStatus subscribe(natsSubscription *subscriptions[3])
{
    char subject[3][SUBJECT];
    natsStatus status = NATS_OK;
    snprintf(subject[0], SUBJECT, "ae.v1.to.%s.>", me);
    snprintf(subject[1], SUBJECT, "ae.v1.call.%s", capability);
    snprintf(subject[2], SUBJECT, "ae.v1.offer.%s", me);
    for (int i = 0; status == NATS_OK && i < 3; i++)
        status = natsConnection_Subscribe(&subscriptions[i], nc, subject[i], hear, NULL);
    natsConnection_FlushTimeout(nc, 5000); /* the server has them now, or gets them first when it is back */
    return status;
}

/* Wait a second at most until no job has a thread any more; gives whether that is so. */
static bool threads_ended(void)
{
    struct timespec until = from_now(1);
    pthread_mutex_lock(&lock);
    while (threads && pthread_cond_clockwait(&news, &lock, CLOCK_MONOTONIC, &until) != ETIMEDOUT)
        ;
    bool ended = threads == 0;
    pthread_mutex_unlock(&lock);
    return ended;
}

/* What runs is stopped and released; offers go on until that is stored. */
static void leave(void)
{
    pthread_mutex_lock(&lock);
    accepting = false;
    for (Job *job = jobs; job; job = job->next)
        job->stop = true;
    pthread_cond_broadcast(&news);
    pthread_mutex_unlock(&lock);
    offer();
    while (!threads_ended())
        offer();
    natsConnection_FlushTimeout(nc, 2000);
}

int main(void)
{
    natsSubscription *subscriptions[3] = {NULL};
    sigset_t end;
    char id[ID];
    me = setting("AGENTEXECUTOR_NAME", "c-1");
    capability = setting("AGENTEXECUTOR_CAPABILITY", "c.work");
    if (!names_are_right())
        return 2;
    sigemptyset(&end);
    sigaddset(&end, SIGTERM);
    sigaddset(&end, SIGINT);
    pthread_sigmask(SIG_BLOCK, &end, NULL); /* in all threads: main waits for them */
    natsStatus status = join_bus(setting("AGENTEXECUTOR_NATS_URL", "nats://127.0.0.1:4222"), &end);
    if (status == NATS_OK) {
        new_id(id);
        snprintf(boot, sizeof boot, "%013lld-%s", (long long) nats_Now(), id + strlen(id) - 8);
        status = subscribe(subscriptions);
    }
    if (status != NATS_OK) {
        fprintf(stderr, "%s cannot join the bus: %s\n", me, natsStatus_GetText(status));
        return 1;
    }
    fprintf(stderr, "%s offers %s\n", me, capability);
    do
        offer();
    while (sigtimedwait(&end, NULL, &(struct timespec){.tv_sec = 1}) < 0);
    pthread_sigmask(SIG_UNBLOCK, &end, NULL); /* a second one ends it at once */
    leave();
    for (int i = 0; i < 3; i++) { /* what is being delivered is heard to its end: a subscription that goes away under a message loses it */
        natsSubscription_Drain(subscriptions[i]);
        natsSubscription_WaitForDrainCompletion(subscriptions[i], 2000);
        natsSubscription_Destroy(subscriptions[i]);
    }
    natsConnection_Destroy(nc);
    nats_CloseAndWait(2000);
    while (jobs)
        forget(&jobs);
    return 0;
}

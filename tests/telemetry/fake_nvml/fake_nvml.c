/* A stand-in for the driver's libnvidia-ml.so.1, reached through the real Python binding.
 *
 * Without a script every GPU reads the same, so that a test can state what it expects (`Defaults`).
 * FAKE_NVML_STATE names a script, which is read anew whenever it changes. A line each; GPU is an
 * index, or * for all:
 *   gpus N                        how many GPUs the driver counts
 *   driver TEXT                   its version
 *   live                          energy and traffic rise with the time
 *   stale                         GPUs are counted at initialisation, as the real one does
 *   hasty                         two samples of GPM may follow one another at once
 *   gpu GPU KEY VALUE             see `set`; lost: it cannot be opened; dying: it can, and no more
 *   field GPU NUMBER VALUE        a field value; the value "-" makes it unsupported
 *   process GPU PID BYTES BUSY    a compute process, busy for so many per cent
 *   mps GPU PID BYTES             a client of MPS
 *   instance GPU PLACE UUID PROFILE GI SMS USED TOTAL      a MIG device; PLACE may leave holes
 *   event NUMBER GPU TYPE DATA    happens once, in the order of the numbers
 *   fail CALL CODE [GPU [AFTER [TIMES]]]    that call returns CODE, from the AFTERth call of it on
 *   delay CALL MILLISECONDS       that call takes so long
 * And by the environment, for tests that need no script: FAKE_NVML_GPUS, _LOST, _DYING and _MIG
 * (an index), _INIT and _COUNT (what initialisation and counting return).
 *
 * -DOLD_DRIVER lacks the functions and fields that an old driver lacks. -DLONG_PROCESS has the
 * struct of a process that the drivers 535.43 to 535.5x had.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

typedef unsigned Result;
enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
       INSUFFICIENT_SIZE = 7, TIMEOUT = 10, GPU_IS_LOST = 15, VERSION_MISMATCH = 25 };
enum { GPUS = 16, PLACES = 7, PROCESSES = 64, FIELDS = 308, RULES = 64, EVENTS = 64, METRICS = 16 };
enum { NO_INSTANCE = 0xFFFFFFFFu };
typedef unsigned long long u64;

typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { u64 total, free, used; } Memory;
typedef struct { unsigned version; u64 total, reserved, free, used; } MemoryV2;
typedef struct { unsigned pid; u64 used; } ProcessV1;
typedef struct { unsigned pid; u64 used; unsigned gpu_instance, compute_instance; } ProcessV2;
typedef struct { unsigned pid; u64 used; unsigned gpu_instance, compute_instance; u64 protected; }
    LongProcess;
typedef struct { unsigned pid; u64 time; unsigned sm, memory, encoder, decoder; } ProcessUse;
typedef struct { unsigned id, scope; int64_t time, latency; unsigned type; Result result;
                 union { double real; u64 whole; } value; } FieldValue;
typedef struct { unsigned id; Result result; double value; const char *names[3]; } Metric;
typedef struct { unsigned version, count; struct Sample *first, *second; Metric metrics[]; } Metrics;
typedef struct { unsigned version, supported; } GpmSupport;
typedef struct { unsigned sms, engines[5], gpu_slices, compute_slices; u64 megabytes; } Attributes;
typedef struct { unsigned version; unsigned char cluster[16]; Result status; unsigned clique;
                 unsigned char state; unsigned health; } Fabric;

#ifdef LONG_PROCESS
typedef LongProcess ProcessV3;
#else
typedef ProcessV2 ProcessV3;
#endif

_Static_assert(sizeof(Utilization) == 8, "nvmlUtilization_t");
_Static_assert(sizeof(Memory) == 24, "nvmlMemory_t");
_Static_assert(sizeof(MemoryV2) == 40, "nvmlMemory_v2_t");
_Static_assert(sizeof(ProcessV1) == 16, "nvmlProcessInfo_v1_t");
_Static_assert(sizeof(ProcessV2) == 24, "nvmlProcessInfo_v2_t");
_Static_assert(sizeof(LongProcess) == 32, "nvmlProcessInfo_t of 535.43");
_Static_assert(sizeof(ProcessUse) == 32, "nvmlProcessUtilizationSample_t");
_Static_assert(sizeof(FieldValue) == 40, "nvmlFieldValue_t");
_Static_assert(sizeof(Metric) == 40, "nvmlGpmMetric_t");
_Static_assert(sizeof(Attributes) == 40, "nvmlDeviceAttributes_t");
_Static_assert(sizeof(Fabric) == 36, "nvmlGpuFabricInfo_v2_t");

/* A handle: a GPU, or the MIG device at a place of it. */
typedef struct { int index, place; } Device;
typedef struct { Device *device; u64 type, data; unsigned gpu_instance, compute_instance; } EventData;
_Static_assert(sizeof(EventData) == 32, "nvmlEventData_t");
struct Sample { const Device *device; unsigned instance; double time; };

typedef struct { unsigned pid; u64 bytes; unsigned busy; int place; } Process;
typedef struct { int exists; char uuid[96], profile[32]; unsigned gi, sms; u64 used, total; } Instance;
typedef struct {
    char uuid[96], name[96];
    int lost, dying, mig, gpm, fabric;
    unsigned busy, memory_busy, celsius, sm_mhz, memory_mhz, sm_max_mhz, memory_max_mhz, clique;
    u64 total, used, reserved, milliwatts, limit_milliwatts, millijoules, reasons, event_types;
    u64 field[FIELDS];
    char has[FIELDS];
    double metric[METRICS];
    Process processes[PROCESSES], mps[PROCESSES];
    int process_count, mps_count;
    Instance instances[PLACES];
} Gpu;
typedef struct { char call[64]; Result result; int gpu, after, times, seen; } Rule;
typedef struct { int number, gpu; u64 type, data; } Event;
typedef struct { char call[64]; int milliseconds; } Delay;
typedef struct {
    int count, live, hasty, stale;
    char driver[64];
    Gpu gpus[GPUS];
    Rule rules[RULES];
    Event events[EVENTS];
    Delay delays[8];
    int rule_count, event_count, delay_count;
} State;

static Device devices[GPUS], parts[GPUS][PLACES];
static State states[4]; /* a reader may still hold the last one while the next is read */
static _Atomic(State *) current;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct timespec changed;
static double began;
static atomic_int sessions, counted;

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void rest(int milliseconds) {
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    nanosleep(&time, NULL);
}

static int setting(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static void supports(Gpu *gpu, int number, u64 value) {
    gpu->field[number] = value;
    gpu->has[number] = 1;
}

/* What every GPU reads: an H100 at work. */
static void defaults(Gpu *gpu, int index) {
    memset(gpu, 0, sizeof *gpu);
    snprintf(gpu->uuid, sizeof gpu->uuid, "GPU-%08d", index);
    snprintf(gpu->name, sizeof gpu->name, "NVIDIA H100 80GB HBM3");
    gpu->busy = 87, gpu->memory_busy = 41, gpu->celsius = 61, gpu->gpm = 1;
    gpu->sm_mhz = 1755, gpu->memory_mhz = 2619, gpu->sm_max_mhz = 1980, gpu->memory_max_mhz = 2619;
    gpu->total = 80000000000, gpu->used = 40000000000, gpu->reserved = 1000000000;
    gpu->milliwatts = 412500, gpu->limit_milliwatts = 700000, gpu->millijoules = 1234500;
    gpu->reasons = 0x4, gpu->event_types = 0xC00B, gpu->fabric = 3, gpu->clique = 7;
    supports(gpu, 82, 66);          /* memory temperature */
    supports(gpu, 74, 2500000000);  /* held down by power: 2.5 s */
    supports(gpu, 75, 500000000);   /* by heat: 0.5 s */
    supports(gpu, 3, 12);           /* corrected errors */
    supports(gpu, 4, 0);            /* uncorrected */
    supports(gpu, 138, 2048);       /* NVLink, sent: KiB */
    supports(gpu, 139, 1024);
#ifndef OLD_DRIVER
    supports(gpu, 186, 430000);     /* power now */
    supports(gpu, 185, 412500);     /* over the last second */
    supports(gpu, 83, 1234500);     /* energy */
    supports(gpu, 76, 0);
    supports(gpu, 252, 250000000);  /* by hardware, for heat: 0.25 s */
    supports(gpu, 253, 0);
    supports(gpu, 142, 1);          /* rows remapped */
    supports(gpu, 143, 0);
    supports(gpu, 144, 0);
    supports(gpu, 145, 0);
    supports(gpu, 197, 5000);       /* PCIe, sent: bytes */
    supports(gpu, 198, 7000);
    supports(gpu, 230, 0);          /* recovery action */
#else
    supports(gpu, 29, 2);           /* pages retired */
    supports(gpu, 30, 1);
#endif
    gpu->metric[1] = 98, gpu->metric[2] = 91.5, gpu->metric[3] = 34, gpu->metric[5] = 47.25;
    gpu->metric[10] = 38.5;
    gpu->processes[0] = (Process){4242, 30000000000, 60, -1};
    gpu->processes[1] = (Process){17, 9000000000, 25, -1};
    gpu->process_count = 2;
}

static void set(Gpu *gpu, const char *key, const char *text) {
    u64 value = strtoull(text, NULL, 0);
    int number = 0;
    if (!strcmp(key, "uuid")) snprintf(gpu->uuid, sizeof gpu->uuid, "%s", text);
    else if (!strcmp(key, "name")) snprintf(gpu->name, sizeof gpu->name, "%s", text);
    else if (!strcmp(key, "lost")) gpu->lost = (int)value;
    else if (!strcmp(key, "dying")) gpu->dying = (int)value;
    else if (!strcmp(key, "mig")) gpu->mig = (int)value;
    else if (!strcmp(key, "gpm")) gpu->gpm = (int)value;
    else if (!strcmp(key, "fabric")) gpu->fabric = (int)value;
    else if (!strcmp(key, "clique")) gpu->clique = (unsigned)value;
    else if (!strcmp(key, "busy")) gpu->busy = (unsigned)value;
    else if (!strcmp(key, "memory_busy")) gpu->memory_busy = (unsigned)value;
    else if (!strcmp(key, "celsius")) gpu->celsius = (unsigned)value;
    else if (!strcmp(key, "sm_mhz")) gpu->sm_mhz = (unsigned)value;
    else if (!strcmp(key, "used")) gpu->used = value;
    else if (!strcmp(key, "total")) gpu->total = value;
    else if (!strcmp(key, "milliwatts")) gpu->milliwatts = value;
    else if (!strcmp(key, "millijoules")) gpu->millijoules = value;
    else if (!strcmp(key, "reasons")) gpu->reasons = value;
    else if (!strcmp(key, "event_types")) gpu->event_types = value;
    else if (!strcmp(key, "processes")) gpu->process_count = 0;
    else if (sscanf(key, "metric%d", &number) == 1 && number > 0 && number < METRICS)
        gpu->metric[number] = atof(text);
    else fprintf(stderr, "fake_nvml: no such key: %s\n", key), abort();
}

static void line_of_gpu(Gpu *gpu, const char *word, const char *rest_of_line) {
    char first[96] = "", second[96] = "";
    int number, place;
    unsigned pid, busy = 0;
    u64 bytes;
    if (!strcmp(word, "gpu") && sscanf(rest_of_line, "%95s %95[^\n]", first, second) == 2) {
        set(gpu, first, second);
    } else if (!strcmp(word, "field") && sscanf(rest_of_line, "%d %95s", &number, first) == 2) {
        supports(gpu, number, strtoull(first, NULL, 0));
        gpu->has[number] = strcmp(first, "-") != 0;
    } else if (!strcmp(word, "process") &&
               sscanf(rest_of_line, "%u %llu %u", &pid, &bytes, &busy) >= 2) {
        place = -1;
        sscanf(rest_of_line, "%*u %*u %*u %d", &place);
        gpu->processes[gpu->process_count++] = (Process){pid, bytes, busy, place};
    } else if (!strcmp(word, "mps") && sscanf(rest_of_line, "%u %llu", &pid, &bytes) == 2) {
        gpu->mps[gpu->mps_count++] = (Process){pid, bytes, 0, -1};
    } else if (!strcmp(word, "instance") && sscanf(rest_of_line, "%d", &place) == 1) {
        Instance *one = &gpu->instances[place];
        one->exists = sscanf(rest_of_line, "%*d %95s %31s %u %u %llu %llu", one->uuid, one->profile,
                             &one->gi, &one->sms, &one->used, &one->total) == 6;
    } else {
        fprintf(stderr, "fake_nvml: no such line: %s %s\n", word, rest_of_line), abort();
    }
}

static void line_of_state(State *state, const char *line) {
    char word[32] = "", which[32] = "";
    int length = 0;
    if (sscanf(line, "%31s %n", word, &length) != 1 || word[0] == '#') return;
    const char *rest_of_line = line + length;
    if (!strcmp(word, "gpus")) {
        state->count = atoi(rest_of_line);
    } else if (!strcmp(word, "live")) {
        state->live = 1;
    } else if (!strcmp(word, "stale")) {
        state->stale = 1;
    } else if (!strcmp(word, "hasty")) {
        state->hasty = 1;
    } else if (!strcmp(word, "driver")) {
        sscanf(rest_of_line, "%63s", state->driver);
    } else if (!strcmp(word, "fail")) {
        Rule *rule = &state->rules[state->rule_count++];
        *rule = (Rule){.gpu = -1, .times = 1 << 30};
        sscanf(rest_of_line, "%63s %u %31s %d %d", rule->call, &rule->result, which, &rule->after,
               &rule->times);
        if (which[0] && which[0] != '*') rule->gpu = atoi(which);
    } else if (!strcmp(word, "delay")) {
        Delay *delay = &state->delays[state->delay_count++];
        sscanf(rest_of_line, "%63s %d", delay->call, &delay->milliseconds);
    } else if (!strcmp(word, "event")) {
        Event *event = &state->events[state->event_count++];
        sscanf(rest_of_line, "%d %d %lli %llu", &event->number, &event->gpu,
               (long long *)&event->type, &event->data);
    } else if (sscanf(rest_of_line, "%31s %n", which, &length) == 1) {
        for (int index = 0; index < GPUS; index++)
            if (which[0] == '*' || atoi(which) == index)
                line_of_gpu(&state->gpus[index], word, rest_of_line + length);
    }
}

static State *read_state(const char *path) {
    static int next;
    State *state = &states[next++ % 4];
    memset(state, 0, sizeof *state);
    for (int index = 0; index < GPUS; index++) {
        defaults(&state->gpus[index], index);
        state->gpus[index].lost = setting("FAKE_NVML_LOST", -1) == index;
        state->gpus[index].dying = setting("FAKE_NVML_DYING", -1) == index;
        state->gpus[index].mig = setting("FAKE_NVML_MIG", -1) == index;
    }
    state->count = setting("FAKE_NVML_GPUS", 2);
    snprintf(state->driver, sizeof state->driver, "580.65.06");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512];
    while (file && fgets(line, sizeof line, file)) line_of_state(state, line);
    if (file) fclose(file);
    return state;
}

static State *look(void) {
    const char *path = getenv("FAKE_NVML_STATE");
    struct stat info;
    pthread_mutex_lock(&lock);
    if (!current || (path && !stat(path, &info) &&
                     (info.st_mtim.tv_sec != changed.tv_sec || info.st_mtim.tv_nsec != changed.tv_nsec))) {
        if (path && !stat(path, &info)) changed = info.st_mtim;
        if (!current) began = seconds();
        current = read_state(path);
    }
    pthread_mutex_unlock(&lock);
    return current;
}

/* What a call returns before it does anything: the script's word first, then the state's. */
static Result enter(const char *call, const Device *device, int needs_session) {
    State *state = look();
    for (int n = 0; n < state->delay_count; n++)
        if (!strcmp(state->delays[n].call, call)) rest(state->delays[n].milliseconds);
    for (int n = 0; n < state->rule_count; n++) {
        Rule *rule = &state->rules[n];
        if (strcmp(rule->call, call)) continue;
        if (device && rule->gpu >= 0 && device->index != rule->gpu) continue;
        int seen = __atomic_fetch_add(&rule->seen, 1, __ATOMIC_SEQ_CST);
        if (seen >= rule->after && seen < rule->after + rule->times) return rule->result;
    }
    if (needs_session && !sessions) return UNINITIALIZED;
    if (device && device->index >= state->count) return GPU_IS_LOST;
    return device && (state->gpus[device->index].lost || state->gpus[device->index].dying)
               ? GPU_IS_LOST : SUCCESS;
}

#define ENTER(device) do { Result is = enter(__func__, device, 1); if (is) return is; } while (0)
#define NOT_OF_PARTS(device) do { if ((device)->place >= 0) return NOT_SUPPORTED; } while (0)

static Gpu *of(const Device *device) {
    return &atomic_load(&current)->gpus[device->index];
}

static u64 risen(u64 base, double per_second) {
    return atomic_load(&current)->live ? base + (u64)((seconds() - began) * per_second) : base;
}

Result nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    Result is = enter(__func__, NULL, 0);
    if (!is) is = (Result)setting("FAKE_NVML_INIT", SUCCESS);
    if (!is && !sessions++) counted = atomic_load(&current)->count;
    return is;
}

Result nvmlShutdown(void) {
    ENTER(NULL);
    sessions--;
    return SUCCESS;
}

const char *nvmlErrorString(Result result) {
    return result == GPU_IS_LOST ? "GPU is lost" : "Unknown Error";
}

Result nvmlSystemGetDriverVersion(char *text, unsigned length) {
    ENTER(NULL);
    snprintf(text, length, "%s", atomic_load(&current)->driver);
    return SUCCESS;
}

Result nvmlDeviceGetCount_v2(unsigned *count) {
    ENTER(NULL);
    *count = (unsigned)(atomic_load(&current)->stale ? counted : atomic_load(&current)->count);
    return (Result)setting("FAKE_NVML_COUNT", SUCCESS);
}

Result nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
    Device which = {(int)index, -1};
    ENTER(NULL);
    Result is = enter("open", &which, 1); /* `fail open CODE GPU` is of one GPU */
    if (is && !of(&which)->dying) return is;
    if ((int)index >= atomic_load(&current)->count) return INVALID_ARGUMENT;
    *device = &devices[index];
    **device = which;
    return SUCCESS;
}

/* What a handle has with it needs no GPU. */
static Result identity(const char *call, const Device *device) {
    Result is = enter(call, device, 1);
    return is == GPU_IS_LOST && (of(device)->dying || of(device)->lost) ? SUCCESS : is;
}

Result nvmlDeviceGetUUID(Device *device, char *text, unsigned length) {
    Result is = identity(__func__, device);
    if (is) return is;
    const Gpu *gpu = of(device);
    snprintf(text, length, "%s", device->place < 0 ? gpu->uuid : gpu->instances[device->place].uuid);
    return SUCCESS;
}

Result nvmlDeviceGetName(Device *device, char *text, unsigned length) {
    Result is = identity(__func__, device);
    if (is) return is;
    const Gpu *gpu = of(device);
    if (device->place < 0) snprintf(text, length, "%s", gpu->name);
    else snprintf(text, length, "%s MIG %s", gpu->name, gpu->instances[device->place].profile);
    return SUCCESS;
}

Result nvmlDeviceGetUtilizationRates(Device *device, Utilization *rates) {
    ENTER(device);
    NOT_OF_PARTS(device);
    if (of(device)->mig) return NOT_SUPPORTED;
    *rates = (Utilization){of(device)->busy, of(device)->memory_busy};
    return SUCCESS;
}

/* The first version counts the driver's own bytes as used, as the real one does. */
Result nvmlDeviceGetMemoryInfo(Device *device, Memory *memory) {
    ENTER(device);
    const Gpu *gpu = of(device);
    memory->total = device->place < 0 ? gpu->total : gpu->instances[device->place].total;
    memory->used = device->place < 0 ? gpu->used + gpu->reserved : gpu->instances[device->place].used;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

Result nvmlDeviceGetPowerUsage(Device *device, unsigned *milliwatts) {
    ENTER(device);
    NOT_OF_PARTS(device);
    *milliwatts = (unsigned)of(device)->milliwatts;
    return SUCCESS;
}

Result nvmlDeviceGetEnforcedPowerLimit(Device *device, unsigned *milliwatts) {
    ENTER(device);
    NOT_OF_PARTS(device);
    *milliwatts = (unsigned)of(device)->limit_milliwatts;
    return SUCCESS;
}

Result nvmlDeviceGetTotalEnergyConsumption(Device *device, u64 *millijoules) {
    ENTER(device);
    NOT_OF_PARTS(device);
    *millijoules = risen(of(device)->millijoules, (double)of(device)->milliwatts);
    return SUCCESS;
}

Result nvmlDeviceGetTemperature(Device *device, unsigned sensor, unsigned *celsius) {
    ENTER(device);
    NOT_OF_PARTS(device);
    if (sensor != 0) return INVALID_ARGUMENT;
    *celsius = of(device)->celsius;
    return SUCCESS;
}

/* Clock 1 is the SM's, 2 the memory's. */
Result nvmlDeviceGetClockInfo(Device *device, unsigned clock, unsigned *mhz) {
    ENTER(device);
    NOT_OF_PARTS(device);
    *mhz = clock == 1 ? of(device)->sm_mhz : of(device)->memory_mhz;
    return SUCCESS;
}

Result nvmlDeviceGetMaxClockInfo(Device *device, unsigned clock, unsigned *mhz) {
    ENTER(device);
    NOT_OF_PARTS(device);
    *mhz = clock == 1 ? of(device)->sm_max_mhz : of(device)->memory_max_mhz;
    return SUCCESS;
}

Result nvmlDeviceGetCurrentClocksThrottleReasons(Device *device, u64 *reasons) {
    ENTER(device);
    NOT_OF_PARTS(device);
    *reasons = of(device)->reasons;
    return SUCCESS;
}

Result nvmlDeviceGetTotalEccErrors(Device *device, unsigned kind, unsigned since, u64 *count) {
    ENTER(device);
    NOT_OF_PARTS(device);
    if (since != 0) return INVALID_ARGUMENT;
    *count = of(device)->field[3 + kind];
    return SUCCESS;
}

static Result field_value(const Gpu *gpu, FieldValue *value) {
    if (value->id >= FIELDS || !gpu->has[value->id]) return NOT_SUPPORTED;
    int of_links = value->id == 138 || value->id == 139 || value->id == 202 || value->id == 204;
    if (of_links && value->scope != 0xFFFFFFFFu) return NOT_SUPPORTED; /* no single links here */
    value->type = 3;
    value->value.whole = gpu->field[value->id];
    if (value->id == 83) value->value.whole = risen(gpu->field[83], (double)gpu->milliwatts);
    if (value->id == 197 || value->id == 198) value->value.whole = risen(gpu->field[value->id], 1e6);
    if (value->id == 82) { /* the one that comes as an int */
        value->type = 1;
        value->value.whole = 0xDEAD00000000u | gpu->field[82];
    }
    return SUCCESS;
}

Result nvmlDeviceGetFieldValues(Device *device, int count, FieldValue *values) {
    ENTER(device);
    NOT_OF_PARTS(device);
    for (int n = 0; n < count; n++) {
        char call[64];
        snprintf(call, sizeof call, "field%u", values[n].id);
        values[n].result = enter(call, device, 1);
        if (!values[n].result) values[n].result = field_value(of(device), &values[n]);
    }
    return SUCCESS;
}

static int belongs(const Device *device, const Process *process) {
    return device->place < 0 || device->place == process->place;
}

/* The processes of a GPU, or of a part of it. */
static unsigned chosen(const Device *device, const Process *all, int number, const Process **found) {
    unsigned count = 0;
    for (int n = 0; n < number; n++)
        if (belongs(device, &all[n])) found[count++] = &all[n];
    return count;
}

/* The first version knows no instances. */
Result nvmlDeviceGetComputeRunningProcesses(Device *device, unsigned *count, ProcessV1 *into) {
    const Process *found[PROCESSES];
    ENTER(device);
    unsigned room = into ? *count : 0;
    *count = chosen(device, of(device)->processes, of(device)->process_count, found);
    if (*count > room) return INSUFFICIENT_SIZE;
    for (unsigned n = 0; n < *count; n++) into[n] = (ProcessV1){found[n]->pid, found[n]->bytes};
    return SUCCESS;
}

#ifndef OLD_DRIVER
static unsigned instance_of(const Device *device, const Process *process) {
    return process->place < 0 ? NO_INSTANCE : of(device)->instances[process->place].gi;
}

static Result list(const Device *device, const Process *all, int number, unsigned *count,
                   ProcessV3 *into) {
    const Process *found[PROCESSES];
    unsigned room = into ? *count : 0;
    *count = chosen(device, all, number, found);
    if (*count > room) return INSUFFICIENT_SIZE;
    memset(into, 0, *count * sizeof *into);
    for (unsigned n = 0; n < *count; n++) {
        into[n].pid = found[n]->pid;
        into[n].used = found[n]->bytes;
        into[n].gpu_instance = instance_of(device, found[n]);
        into[n].compute_instance = found[n]->place < 0 ? NO_INSTANCE : 0;
    }
    return SUCCESS;
}

Result nvmlDeviceGetComputeRunningProcesses_v3(Device *device, unsigned *count, ProcessV3 *into) {
    ENTER(device);
    return list(device, of(device)->processes, of(device)->process_count, count, into);
}

Result nvmlDeviceGetMPSComputeRunningProcesses_v3(Device *device, unsigned *count, ProcessV3 *into) {
    ENTER(device);
    return list(device, of(device)->mps, of(device)->mps_count, count, into);
}

/* Not called; which of the two is there tells a driver's structs. */
Result nvmlDeviceGetConfComputeMemSizeInfo(Device *device, void *info) {
    (void)info;
    ENTER(device);
    return NOT_SUPPORTED;
}
#ifndef LONG_PROCESS
Result nvmlDeviceGetRunningProcessDetailList(Device *device, void *list) {
    (void)list;
    ENTER(device);
    return NOT_SUPPORTED;
}
#endif
#endif

/* One sample of each busy process. An idle GPU has none: NOT_FOUND. */
Result nvmlDeviceGetProcessUtilization(Device *device, ProcessUse *into, unsigned *count, u64 since) {
    const Gpu *gpu;
    unsigned busy = 0, room;
    u64 now = 1000000 + (u64)((seconds() - began) * 1e6);
    ENTER(device);
    NOT_OF_PARTS(device);
    gpu = of(device);
    if (gpu->mig) return NOT_SUPPORTED;
    room = into ? *count : 0;
    for (int n = 0; n < gpu->process_count && now > since; n++) {
        if (!gpu->processes[n].busy) continue;
        if (busy < room)
            into[busy] = (ProcessUse){gpu->processes[n].pid, now, gpu->processes[n].busy, 0, 0, 0};
        busy++;
    }
    *count = busy;
    if (!busy) return NOT_FOUND;
    return busy > room ? INSUFFICIENT_SIZE : SUCCESS;
}

Result nvmlDeviceGetMigMode(Device *device, unsigned *now, unsigned *later) {
    ENTER(device);
    NOT_OF_PARTS(device);
    *now = *later = (unsigned)of(device)->mig;
    return SUCCESS;
}

Result nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned *count) {
    ENTER(device);
    *count = PLACES;
    return SUCCESS;
}

Result nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned place, Device **part) {
    ENTER(device);
    if (place >= PLACES || !of(device)->instances[place].exists) return NOT_FOUND;
    *part = &parts[device->index][place];
    **part = (Device){device->index, (int)place};
    return SUCCESS;
}

Result nvmlDeviceGetGpuInstanceId(Device *device, unsigned *id) {
    ENTER(device);
    if (device->place < 0) return NOT_SUPPORTED;
    *id = of(device)->instances[device->place].gi;
    return SUCCESS;
}

Result nvmlDeviceGetAttributes_v2(Device *device, Attributes *attributes) {
    ENTER(device);
    if (device->place < 0) return NOT_SUPPORTED;
    memset(attributes, 0, sizeof *attributes);
    attributes->sms = of(device)->instances[device->place].sms;
    return SUCCESS;
}

Result nvmlEventSetCreate(void **set) {
    ENTER(NULL);
    *set = malloc(1);
    return SUCCESS;
}

Result nvmlEventSetFree(void *set) {
    free(set);
    return enter(__func__, NULL, 1);
}

Result nvmlDeviceGetSupportedEventTypes(Device *device, u64 *types) {
    ENTER(device);
    *types = of(device)->event_types;
    return SUCCESS;
}

Result nvmlDeviceRegisterEvents(Device *device, u64 types, void *set) {
    (void)set;
    ENTER(device);
    return types & ~of(device)->event_types ? NOT_SUPPORTED : SUCCESS;
}

Result nvmlEventSetWait_v2(void *set, EventData *data, unsigned milliseconds) {
    static int told;
    double until = seconds() + milliseconds / 1000.0;
    (void)set;
    ENTER(NULL);
    for (;;) {
        const State *state = look();
        if (!sessions) return UNINITIALIZED;
        for (int n = 0; n < state->event_count; n++) {
            const Event *event = &state->events[n];
            if (event->number <= told) continue;
            told = event->number;
            *data = (EventData){&devices[event->gpu], event->type, event->data, NO_INSTANCE, NO_INSTANCE};
            return SUCCESS;
        }
        double left = until - seconds();
        if (left <= 0) return TIMEOUT;
        rest(left < 0.05 ? 1 + (int)(left * 1000) : 50);
    }
}

#ifndef OLD_DRIVER
Result nvmlDeviceGetMemoryInfo_v2(Device *device, MemoryV2 *memory) {
    ENTER(device);
    if (memory->version != (sizeof(MemoryV2) | 2u << 24)) return VERSION_MISMATCH;
    const Gpu *gpu = of(device);
    memory->total = device->place < 0 ? gpu->total : gpu->instances[device->place].total;
    memory->used = device->place < 0 ? gpu->used : gpu->instances[device->place].used;
    memory->reserved = device->place < 0 ? gpu->reserved : 0;
    memory->free = memory->total - memory->used - memory->reserved;
    return SUCCESS;
}

Result nvmlDeviceGetCurrentClocksEventReasons(Device *device, u64 *reasons) {
    ENTER(device);
    NOT_OF_PARTS(device);
    *reasons = of(device)->reasons;
    return SUCCESS;
}

Result nvmlDeviceGetRemappedRows(Device *device, unsigned *corrected, unsigned *uncorrected,
                                 unsigned *pending, unsigned *failed) {
    ENTER(device);
    NOT_OF_PARTS(device);
    const u64 *field = of(device)->field;
    *corrected = (unsigned)field[142], *uncorrected = (unsigned)field[143];
    *pending = (unsigned)field[144], *failed = (unsigned)field[145];
    return SUCCESS;
}

Result nvmlDeviceGetGpuFabricInfoV(Device *device, Fabric *fabric) {
    ENTER(device);
    if (fabric->version != (sizeof(Fabric) | 2u << 24)) return VERSION_MISMATCH;
    for (int n = 0; n < 16; n++) fabric->cluster[n] = (unsigned char)(n + 1);
    fabric->status = SUCCESS;
    fabric->clique = of(device)->clique;
    fabric->state = (unsigned char)of(device)->fabric;
    return SUCCESS;
}

Result nvmlGpmQueryDeviceSupport(Device *device, GpmSupport *support) {
    ENTER(device);
    if (support->version != 1) return VERSION_MISMATCH;
    support->supported = (unsigned)of(device)->gpm;
    return SUCCESS;
}

Result nvmlGpmSampleAlloc(struct Sample **sample) {
    ENTER(NULL);
    *sample = calloc(1, sizeof **sample);
    return SUCCESS;
}

Result nvmlGpmSampleFree(struct Sample *sample) {
    free(sample);
    return enter(__func__, NULL, 1);
}

Result nvmlGpmSampleGet(Device *device, struct Sample *sample) {
    ENTER(device);
    *sample = (struct Sample){device, NO_INSTANCE, seconds()};
    return SUCCESS;
}

Result nvmlGpmMigSampleGet(Device *device, unsigned instance, struct Sample *sample) {
    ENTER(device);
    *sample = (struct Sample){device, instance, seconds()};
    return SUCCESS;
}

/* An instance works half as much as its GPU, so that the two can be told apart. */
Result nvmlGpmMetricsGet(Metrics *metrics) {
    const struct Sample *first = metrics->first, *second = metrics->second;
    ENTER(second->device);
    if (metrics->version != 1) return VERSION_MISMATCH;
    if (first->device != second->device || first->instance != second->instance) return INVALID_ARGUMENT;
    if (second->time - first->time < 0.1 && !atomic_load(&current)->hasty) return INVALID_ARGUMENT;
    for (unsigned n = 0; n < metrics->count; n++) {
        Metric *metric = &metrics->metrics[n];
        char call[64];
        snprintf(call, sizeof call, "metric%u", metric->id);
        metric->result = metric->id < METRICS ? enter(call, second->device, 1) : NOT_SUPPORTED;
        if (metric->result) continue;
        metric->value = of(second->device)->metric[metric->id];
        if (second->instance != NO_INSTANCE) metric->value /= 2;
    }
    return SUCCESS;
}
#endif

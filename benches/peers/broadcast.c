/* MPI_Bcast, measured: `mpirun -np N broadcast BYTES [CONGESTION_CONTROL]`.
 *
 * Broadcasts a part to make connections, then all for the measurement, then compares what every process received with
 * what was sent. The first process prints one line of JSON. The clock is that of the host, so all processes must run
 * on one. It is built with congestion.c. */
#include <limits.h>
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

/* Bytes that are broadcast first: as long messages are. */
#define WARM_UP_BYTES (32 << 20)

static double seconds_on_the_wall(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

static double seconds_on_processors(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
}

/* A sequence that every process can make by itself, to compare with. */
static uint64_t next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

int main(int argc, char **argv)
{
    long long bytes = argc > 1 ? atoll(argv[1]) : 0;
    if (argc > 2)
        setenv("CONGESTION_CONTROL", argv[2], 1);
    if (bytes <= 0 || bytes % 8 != 0 || bytes > INT_MAX) {
        fprintf(stderr, "usage: broadcast BYTES [CONGESTION_CONTROL]; BYTES is a multiple of 8 below 2 GiB\n");
        return 2;
    }
    MPI_Init(&argc, &argv);
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    size_t words = bytes / 8;
    uint64_t *memory = malloc(bytes);
    if (!memory)
        MPI_Abort(MPI_COMM_WORLD, 1);
    uint64_t state = 88172645463325252u;
    memset(memory, 1, bytes);
    for (size_t at = 0; rank == 0 && at < words; at++)
        memory[at] = next(&state);
    MPI_Bcast(memory, bytes < WARM_UP_BYTES ? (int)bytes : WARM_UP_BYTES, MPI_BYTE, 0, MPI_COMM_WORLD);
    if (rank != 0)
        memset(memory, 1, bytes);

    MPI_Barrier(MPI_COMM_WORLD);
    double processors = seconds_on_processors();
    double begin = seconds_on_the_wall();
    MPI_Bcast(memory, (int)bytes, MPI_BYTE, 0, MPI_COMM_WORLD);
    double end = seconds_on_the_wall();
    processors = seconds_on_processors() - processors;

    int right = rank != 0;
    state = 88172645463325252u;
    for (size_t at = 0; right && at < words; at++)
        right = memory[at] == next(&state);
    double first, last, all;
    int all_right;
    MPI_Reduce(&begin, &first, 1, MPI_DOUBLE, MPI_MIN, 0, MPI_COMM_WORLD);
    MPI_Reduce(&end, &last, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    MPI_Reduce(&processors, &all, 1, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
    MPI_Reduce(&right, &all_right, 1, MPI_INT, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank == 0)
        printf("{\"wall_s\": %.9f, \"processors_s\": %.6f, \"right\": %d}\n", last - first, all, all_right);
    free(memory);
    MPI_Finalize();
    return 0;
}

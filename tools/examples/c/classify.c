/* Classifies a photograph, then runs the network on the same pixels from two threads' worth of requests.
 * C99, and C++17 too. Build: cc classify.c $(pkg-config --cflags --libs skipstone) -o classify
 * Run: classify MODEL.skip PHOTO.jpg */
#include <stdio.h>
#include <stdlib.h>

#include <skipstone.h>

#define TOP 3

static void check(int32_t status, const char *what) {
    char text[512];
    if (status == SKIPSTONE_OK) return;
    skipstone_last_error(text, sizeof text);
    fprintf(stderr, "%s: %s (%s)\n", what, text, skipstone_status_name(status));
    exit(1);
}

static void *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    long length;
    void *bytes;
    if (!file || fseek(file, 0, SEEK_END) || (length = ftell(file)) <= 0) {
        perror(path);
        exit(1);
    }
    rewind(file);
    bytes = malloc((size_t)length);
    if (!bytes || fread(bytes, 1, (size_t)length, file) != (size_t)length) {
        perror(path);
        exit(1);
    }
    fclose(file);
    *size = (size_t)length;
    return bytes;
}

static size_t elements(const skipstone_tensor_info *info) {
    return (size_t)(info->channels * info->height * info->width);
}

int main(int argc, char **argv) {
    skipstone_model *model = NULL;
    skipstone_options *options = NULL;
    skipstone_session *session = NULL;
    skipstone_class classes[TOP];
    skipstone_tensor_info input_info, output_info;
    skipstone_timing timing;
    skipstone_input input;
    skipstone_output output;
    size_t count, i, size, pixels;
    void *photo;
    float *image, *logits;

    if (argc != 3) {
        fprintf(stderr, "usage: %s MODEL.skip PHOTO.jpg\n", argv[0]);
        return 2;
    }
    check(skipstone_check_api(SKIPSTONE_API_VERSION), "library");
    check(skipstone_model_open(argv[1], SKIPSTONE_OPEN_COPY, &model), "open");
    check(skipstone_options_create(&options), "options");
    check(skipstone_options_set(options, "threads", "2"), "options");
    check(skipstone_session_create(model, options, NULL, &session), "session");
    skipstone_options_destroy(options);

    /* An image file: decoded and prepared as the model was trained. */
    photo = read_file(argv[2], &size);
    classes[0].struct_size = sizeof classes[0];
    check(skipstone_session_classify(session, photo, size, 0, classes, TOP, &count), "classify");
    free(photo);
    for (i = 0; i < count; i++)
        printf("%.4f  %s\n", classes[i].score, classes[i].label ? classes[i].label : "(no label)");

    /* Any tensor, read and written where it is. */
    input_info.struct_size = sizeof input_info;
    output_info.struct_size = sizeof output_info;
    check(skipstone_session_input(session, 0, &input_info), "input");
    check(skipstone_session_output(session, 0, &output_info), "output");
    pixels = elements(&input_info);
    image = (float *)calloc(pixels, sizeof *image);
    logits = (float *)malloc(elements(&output_info) * sizeof *logits);
    if (!image || !logits) return 1;
    input.struct_size = sizeof input;
    input.dtype = SKIPSTONE_F32;
    input.order = SKIPSTONE_NATIVE;
    input.reserved = 0;
    input.data = image;
    input.size = pixels * sizeof *image;
    output.struct_size = sizeof output;
    output.reserved = 0;
    output.data = logits;
    output.size = elements(&output_info) * sizeof *logits;
    timing.struct_size = sizeof timing;
    check(skipstone_session_run(session, &input, 1, &output, 1, 0, &timing), "run");
    printf("%s: first of %zu outputs %.6f\n", output_info.name, elements(&output_info), logits[0]);

    free(image);
    free(logits);
    skipstone_session_destroy(session);
    skipstone_model_destroy(model);
    return 0;
}

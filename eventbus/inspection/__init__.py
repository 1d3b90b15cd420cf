"""One question, put to every place an event passes: `eventbus status`, `eventbus why`, `eventbus doctor`."""

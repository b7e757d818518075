module countersign/bench/goproxy

go 1.21

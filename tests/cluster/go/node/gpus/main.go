// gpus is a device plug-in that offers a kubelet GPUs which are not there: names without a device.
// A container that gets one sees its name in NVIDIA_VISIBLE_DEVICES, as with the real plug-in.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const socket = "flopwise-gpus.sock"

type plugin struct {
	api.UnimplementedDevicePluginServer
	count int
}

func (p *plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

// ListAndWatch names all devices once: they stay as they are for as long as the kubelet listens.
func (p *plugin) ListAndWatch(_ *api.Empty, kubelet grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	devices := make([]*api.Device, p.count)
	for i := range devices {
		devices[i] = &api.Device{ID: fmt.Sprintf("GPU-test-%d", i), Health: api.Healthy}
	}
	if err := kubelet.Send(&api.ListAndWatchResponse{Devices: devices}); err != nil {
		return err
	}
	<-kubelet.Context().Done()
	return nil
}

func (p *plugin) Allocate(_ context.Context, asked *api.AllocateRequest) (*api.AllocateResponse, error) {
	given := &api.AllocateResponse{}
	for _, container := range asked.ContainerRequests {
		names := strings.Join(container.DevicesIds, ",")
		given.ContainerResponses = append(given.ContainerResponses,
			&api.ContainerAllocateResponse{Envs: map[string]string{"NVIDIA_VISIBLE_DEVICES": names}})
	}
	return given, nil
}

// serve listens, registers with the kubelet and returns when that failed, or when the kubelet, as it
// starts, has emptied the folder: then everything is to be done anew.
func (p *plugin) serve(folder, resource string) error {
	path := filepath.Join(folder, socket)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	defer server.Stop()
	api.RegisterDevicePluginServer(server, p)
	go server.Serve(listener)
	if err := register(folder, resource); err != nil {
		return err
	}
	log.Printf("registered %d of %s", p.count, resource)
	for {
		time.Sleep(500 * time.Millisecond)
		if _, err := os.Stat(path); err != nil {
			return err
		}
	}
}

func register(folder, resource string) error {
	to := "unix://" + filepath.Join(folder, "kubelet.sock")
	kubelet, err := grpc.NewClient(to, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer kubelet.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request := &api.RegisterRequest{Version: api.Version, Endpoint: socket, ResourceName: resource}
	_, err = api.NewRegistrationClient(kubelet).Register(ctx, request)
	return err
}

func main() {
	folder := flag.String("folder", "/var/lib/kubelet/device-plugins", "the kubelet's folder of plug-ins")
	count := flag.Int("count", 2, "how many GPUs the node has")
	resource := flag.String("resource", "nvidia.com/gpu", "what they are called")
	flag.Parse()
	p := &plugin{count: *count}
	for {
		log.Print(p.serve(*folder, *resource))
		time.Sleep(200 * time.Millisecond)
	}
}

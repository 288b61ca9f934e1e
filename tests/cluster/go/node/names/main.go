// names resolves the services of a test cluster: SERVICE.NAMESPACE.svc.cluster.local is its cluster
// address or, for a headless service, the addresses of its ready endpoints. All else does not exist:
// a pod of the test cluster reaches nothing outside it.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const domain = ".svc.cluster.local."

var errNoSuch = errors.New("no such name")

// cluster asks the API server at each question: a test has few, and none may be stale.
type cluster struct {
	url    string
	client *http.Client
}

type service struct {
	Spec struct{ ClusterIP string }
}

type slices struct {
	Items []struct {
		Endpoints []struct {
			Addresses  []string
			Conditions struct{ Ready *bool }
		}
	}
}

func (c *cluster) get(path string, into any) error {
	answer, err := c.client.Get(c.url + path)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
		return json.NewDecoder(answer.Body).Decode(into)
	case http.StatusNotFound:
		return errNoSuch
	}
	return fmt.Errorf("%s: %s", path, answer.Status)
}

func (c *cluster) addresses(name string) ([]string, error) {
	parts := strings.Split(strings.TrimSuffix(strings.ToLower(name), domain), ".")
	if !strings.HasSuffix(strings.ToLower(name), domain) || len(parts) != 2 {
		return nil, errNoSuch
	}
	var found service
	if err := c.get("/api/v1/namespaces/"+parts[1]+"/services/"+parts[0], &found); err != nil {
		return nil, err
	}
	if found.Spec.ClusterIP != "None" {
		return []string{found.Spec.ClusterIP}, nil
	}
	var behind slices
	path := "/apis/discovery.k8s.io/v1/namespaces/" + parts[1] + "/endpointslices"
	if err := c.get(path+"?labelSelector=kubernetes.io/service-name%3D"+parts[0], &behind); err != nil {
		return nil, err
	}
	return behind.ready(), nil
}

func (s slices) ready() (addresses []string) {
	for _, slice := range s.Items {
		for _, endpoint := range slice.Endpoints {
			if endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready {
				addresses = append(addresses, endpoint.Addresses...)
			}
		}
	}
	return addresses
}

// answer turns a question into the packet that answers it; nil where it is none.
func (c *cluster) answer(packet []byte) []byte {
	var message dnsmessage.Message
	if message.Unpack(packet) != nil || len(message.Questions) == 0 {
		return nil
	}
	question := message.Questions[0]
	message.Response, message.Authoritative, message.RecursionAvailable = true, true, true
	message.Answers, message.Authorities, message.Additionals = nil, nil, nil
	addresses, err := c.addresses(question.Name.String())
	switch {
	case errors.Is(err, errNoSuch):
		message.RCode = dnsmessage.RCodeNameError
	case err != nil:
		log.Print(err)
		message.RCode = dnsmessage.RCodeServerFailure
	case question.Type == dnsmessage.TypeA:
		message.Answers = records(question.Name, addresses)
	}
	packed, err := message.Pack()
	if err != nil {
		log.Print(err)
		return nil
	}
	return packed
}

func records(name dnsmessage.Name, addresses []string) (answers []dnsmessage.Resource) {
	header := dnsmessage.ResourceHeader{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: 1}
	for _, address := range addresses {
		if four := net.ParseIP(address).To4(); four != nil {
			body := &dnsmessage.AResource{A: [4]byte(four)}
			answers = append(answers, dnsmessage.Resource{Header: header, Body: body})
		}
	}
	return answers
}

func main() {
	listen := flag.String("listen", "", "HOST:PORT to answer on, by UDP")
	url := flag.String("api", "", "the API server")
	authority := flag.String("ca", "", "who signed its certificate")
	certificate := flag.String("certificate", "", "ours")
	key := flag.String("key", "", "and its key")
	flag.Parse()
	trusted := x509.NewCertPool()
	text, err := os.ReadFile(*authority)
	if err != nil || !trusted.AppendCertsFromPEM(text) {
		log.Fatal("no authority in ", *authority, ": ", err)
	}
	own, err := tls.LoadX509KeyPair(*certificate, *key)
	if err != nil {
		log.Fatal(err)
	}
	transport := &http.Transport{
		MaxIdleConnsPerHost: 4,
		TLSClientConfig:     &tls.Config{RootCAs: trusted, Certificates: []tls.Certificate{own}},
	}
	c := &cluster{url: *url, client: &http.Client{Timeout: 3 * time.Second, Transport: transport}}
	socket, err := net.ListenPacket("udp4", *listen)
	if err != nil {
		log.Fatal(err)
	}
	buffer := make([]byte, 4096)
	for {
		length, from, err := socket.ReadFrom(buffer)
		if err != nil {
			log.Fatal(err)
		}
		question := append([]byte(nil), buffer[:length]...)
		go func() {
			if packed := c.answer(question); packed != nil {
				socket.WriteTo(packed, from)
			}
		}()
	}
}

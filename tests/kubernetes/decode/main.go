// Decode reads Kubernetes objects from YAML files into the Go types of their APIs and refuses fields that these do not have, and values of
// another kind.
//
// Why: schemas of cert-manager, the Prometheus operator and the Gateway API are not in Kubernetes' own, and a misspelt field of theirs would
// be dropped without a message by a client that does not check.
// Not here: rules between fields; an API server has these.
package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"
)

var kinds = map[string]func() any{
	"v1/ConfigMap":                            func() any { return &core.ConfigMap{} },
	"v1/Pod":                                  func() any { return &core.Pod{} },
	"v1/Service":                              func() any { return &core.Service{} },
	"v1/ServiceAccount":                       func() any { return &core.ServiceAccount{} },
	"apps/v1/StatefulSet":                     func() any { return &apps.StatefulSet{} },
	"autoscaling/v2/HorizontalPodAutoscaler":  func() any { return &autoscaling.HorizontalPodAutoscaler{} },
	"batch/v1/Job":                            func() any { return &batch.Job{} },
	"networking.k8s.io/v1/Ingress":            func() any { return &networking.Ingress{} },
	"networking.k8s.io/v1/NetworkPolicy":      func() any { return &networking.NetworkPolicy{} },
	"policy/v1/PodDisruptionBudget":           func() any { return &policy.PodDisruptionBudget{} },
	"cert-manager.io/v1/Certificate":          func() any { return &certmanager.Certificate{} },
	"cert-manager.io/v1/Issuer":               func() any { return &certmanager.Issuer{} },
	"monitoring.coreos.com/v1/ServiceMonitor": func() any { return &monitoring.ServiceMonitor{} },
	"monitoring.coreos.com/v1/PrometheusRule": func() any { return &monitoring.PrometheusRule{} },
	"gateway.networking.k8s.io/v1/TLSRoute":   func() any { return &gateway.TLSRoute{} },
}

func check(document []byte) (string, error) {
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Metadata   struct {
			Name string `json:"name"`
		} `json:"metadata"`
	}
	if err := yaml.Unmarshal(document, &head); err != nil {
		return "", err
	}
	if head.Kind == "" {
		return "", nil
	}
	name := fmt.Sprintf("%s/%s %s", head.APIVersion, head.Kind, head.Metadata.Name)
	object, known := kinds[head.APIVersion+"/"+head.Kind]
	if !known {
		return name, fmt.Errorf("this program knows no such kind")
	}
	return name, yaml.UnmarshalStrict(document, object())
}

func main() {
	failed, objects := 0, 0
	for _, file := range os.Args[1:] {
		text, err := os.ReadFile(file)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		for _, document := range bytes.Split(text, []byte("\n---\n")) {
			name, err := check(document)
			if err != nil {
				failed++
				fmt.Printf("%s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", " "))
			} else if name != "" {
				objects++
			}
		}
	}
	fmt.Printf("%d objects decoded, %d refused\n", objects, failed)
	if failed > 0 || objects == 0 {
		os.Exit(1)
	}
}
